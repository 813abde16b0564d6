import { constants, deflateRawSync, inflateRawSync } from 'node:zlib';
import * as fc from 'fast-check';
import { beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { type Decompress, loadCodec } from '../../src/image/qcow2/codec.ts';
import { decoderWith, systemDecoder, wasmDecoder } from '../../src/image/qcow2/codec-zstd.ts';
import { expectSame, pattern } from '../backend/driver.ts';

const MIB = 1024 * 1024;
/** Inflated here, and on the pool. */
const CLUSTERS = [512, 4096, 65536, 2 * MIB];

/** The text in ZSTD_TEXT: one compressed block with Huffman literals and sequences. */
const TEXT = Buffer.from(
  Array.from({ length: 100 }, (_, i) => `line ${i} of a text that repeats itself, ${i * i}\n`)
    .join('')
    .slice(0, 2048),
);
const ZSTD_TEXT = Buffer.from(
  'KLUv/WQABzUHAMKPJBagKR0Au3+9t9OBKsRy7ySTTMDX3q1WxSd7W6nm19E+G5bJC2uakyY6yazxyjbNi6VKUqUV' +
    '6SJWEVv8sYiOijZXm2J6LaUvf623vph7taqNW9oskal8Hd0yPNPCW09rjT+adxZtlixJJNKcb87ldaudvnJJAJGA' +
    'oHAoDoEojnEgjgQ5xuCQszgOMYjgQIgcBkIhXqgRsKDZ/e/QG4UOESRsARP+PxH6AUhZWOQLBjAEKtJZhUB3H6w9' +
    'Q4Y9WOsHvSzd37c/b9/e+r35e/a37dNxxDnljfwKO0/IYAcO5HYMCyBVY95Y8Q==',
  'base64',
);

let inflate: Decompress;

beforeAll(async () => {
  inflate = await loadCodec('deflate');
});

/** Bytes that compress to about a half. */
function halfNoise(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    bytes[at] = at % 2 === 0 ? state >>> 24 : 0x20;
  }
  return bytes;
}

describe('a deflate stream', () => {
  it.each(CLUSTERS)('becomes a cluster of %i bytes, whatever follows it', async (clusterBytes) => {
    const plain = halfNoise(clusterBytes);
    for (const windowBits of [9, 12, 15]) {
      const stream = deflateRawSync(plain, { windowBits, memLevel: 9 });
      for (const junk of [0, 1, 511]) {
        const bytes = Buffer.concat([stream, Buffer.alloc(junk, 0xff)]);
        expectSame((await inflate(bytes, clusterBytes)) ?? pattern(0), plain);
      }
    }
  });

  it.each(CLUSTERS)('that is longer than %i bytes is cut there', async (clusterBytes) => {
    const plain = halfNoise(clusterBytes);
    for (const more of [1, 64, 65, 3 * clusterBytes]) {
      const stream = deflateRawSync(Buffer.concat([plain, Buffer.alloc(more, 7)]));
      expectSame((await inflate(stream, clusterBytes)) ?? pattern(0), plain);
    }
  });

  it.each(CLUSTERS)('that ends before %i bytes is damaged', async (clusterBytes) => {
    for (const length of [0, 1, clusterBytes - 1]) {
      expect(await inflate(deflateRawSync(Buffer.alloc(length)), clusterBytes)).toBe(undefined);
    }
  });

  it.each(CLUSTERS)('that is cut off before it has %i bytes is damaged', async (clusterBytes) => {
    const stream = deflateRawSync(halfNoise(clusterBytes));
    for (const length of [0, 1, stream.length >> 1, stream.length - 8]) {
      expect(await inflate(stream.subarray(0, length), clusterBytes)).toBe(undefined);
    }
  });

  it.each(CLUSTERS)('may be damaged somewhere after its first %i bytes', async (clusterBytes) => {
    const plain = halfNoise(clusterBytes);
    const longer = Buffer.concat([plain, halfNoise(512)]);
    const whole = deflateRawSync(longer, { finishFlush: constants.Z_SYNC_FLUSH });
    const damaged = Buffer.concat([whole, Buffer.alloc(512, 0xff)]);
    expect(() => inflateRawSync(damaged)).toThrow();
    expectSame((await inflate(damaged, clusterBytes)) ?? pattern(0), plain);
  });

  it('that would be 64 MiB takes the memory of a few clusters', async () => {
    const bomb = deflateRawSync(Buffer.alloc(64 * MIB));
    for (const clusterBytes of CLUSTERS) {
      const before = process.memoryUsage().arrayBuffers;
      const plain = await inflate(bomb, clusterBytes);
      expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(8 * clusterBytes + MIB);
      expectSame(plain ?? pattern(0), new Uint8Array(clusterBytes));
    }
  });

  it('of random or mutated bytes gives a whole cluster or nothing', async () => {
    const stream = deflateRawSync(halfNoise(4096));
    const property = fc.asyncProperty(mutations(stream), async (bytes) => {
      const plain = await inflate(bytes, 4096);
      expect(plain?.length ?? 4096).toBe(4096);
    });
    await fc.assert(property, { numRuns: 1000 });
  });
});

/** Bytes with a few changes, cut somewhere; or nothing but noise. */
function mutations(bytes: Uint8Array): fc.Arbitrary<Uint8Array> {
  const change = fc.tuple(fc.nat(bytes.length - 1), fc.nat(255));
  const mutated = fc
    .tuple(fc.array(change, { minLength: 1, maxLength: 4 }), fc.nat(bytes.length * 8))
    .map(([changes, length]) => {
      const copy = Uint8Array.from(bytes.subarray(0, length));
      for (const [at, value] of changes) if (at < copy.length) copy[at] = value;
      return copy;
    });
  const noise = fc.uint8Array({ maxLength: 600 });
  return fc.oneof({ weight: 9, arbitrary: mutated }, { weight: 1, arbitrary: noise });
}

const MAGIC = [0x28, 0xb5, 0x2f, 0xfd];

/** A frame of RLE blocks of at most 128 KiB: any size in a few bytes. */
function rleFrame(byte: number, size: number, header: readonly number[]): Uint8Array {
  const blocks: number[] = [];
  for (let left = size; left >= 0 && (left > 0 || blocks.length === 0);) {
    const count = Math.min(left, 131072);
    left -= count;
    const field = (count << 3) | (1 << 1) | (left === 0 ? 1 : 0);
    blocks.push(field & 255, (field >> 8) & 255, field >> 16, byte);
  }
  return Uint8Array.from([...MAGIC, ...header, ...blocks]);
}

/** Single segment, content size in 4 bytes. */
function sized(size: number, claimed = size): Uint8Array {
  const bytes = [claimed & 255, (claimed >> 8) & 255, (claimed >> 16) & 255, claimed >>> 24];
  return rleFrame(0x33, size, [0xa0, ...bytes]);
}

/** A window of 8 MiB and no content size. */
function unsized(size: number): Uint8Array {
  return rleFrame(0x44, size, [0x00, 13 << 3]);
}

const skippable = Uint8Array.from([0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);

const DECODERS = [
  ['the system', systemDecoder()],
  ['WebAssembly', await wasmDecoder()],
] as const;

describe.each(DECODERS)('a zstd stream, decoded by %s', (_name, decoder) => {
  const zstd: Decompress = decoderWith(decoder ?? (() => expect.unreachable('skipped')));
  beforeEach((context) => {
    if (decoder === undefined) context.skip('libzstd or koffi is not installed');
  });

  const filled = (byte: number, length: number): Uint8Array => new Uint8Array(length).fill(byte);

  it('becomes a cluster, whatever follows it', async () => {
    expectSame((await zstd(ZSTD_TEXT, 2048)) ?? pattern(0), TEXT);
    for (const tail of [Buffer.alloc(511, 0xff), ZSTD_TEXT, ZSTD_TEXT.subarray(0, 100)]) {
      expectSame((await zstd(Buffer.concat([ZSTD_TEXT, tail]), 2048)) ?? pattern(0), TEXT);
    }
  });

  it.each(CLUSTERS)('of frames that fill %i bytes together is one', async (clusterBytes) => {
    const half = clusterBytes / 2;
    for (const parts of [
      [sized(clusterBytes)],
      [unsized(clusterBytes)],
      [sized(half), sized(half)],
      [unsized(half), sized(half)],
      [skippable, sized(half), skippable, sized(0), unsized(half)],
    ]) {
      const plain = (await zstd(Buffer.concat(parts), clusterBytes)) ?? pattern(0);
      expect(plain.length).toBe(clusterBytes);
      expect(plain.every((byte) => byte === 0x33 || byte === 0x44)).toBe(true);
    }
    const two = await zstd(Buffer.concat([unsized(half), sized(half)]), clusterBytes);
    expectSame(two ?? pattern(0), Buffer.concat([filled(0x44, half), filled(0x33, half)]));
  });

  it.each(CLUSTERS)('that is not exactly %i bytes is damaged', async (clusterBytes) => {
    for (const parts of [
      [],
      [sized(clusterBytes - 1)],
      [unsized(clusterBytes - 1)],
      [sized(clusterBytes + 1)],
      [unsized(clusterBytes + 1)],
      [sized(64 * MIB)],
      [unsized(64 * MIB)],
      [sized(clusterBytes, clusterBytes - 1)],
      [sized(clusterBytes - 1, clusterBytes)],
      [sized(clusterBytes, 0)],
      [sized(clusterBytes - 8), sized(16)],
      [skippable],
    ]) {
      expect(await zstd(Buffer.concat(parts), clusterBytes)).toBe(undefined);
    }
  });

  it('that claims 2^40 bytes takes no memory for them', async () => {
    const claim = rleFrame(1, 512, [0xe0, 0, 0, 0, 0, 0, 1, 0, 0]);
    const before = process.memoryUsage().arrayBuffers;
    expect(await zstd(claim, 512)).toBe(undefined);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(MIB);
  });

  it('that is cut off is damaged', async () => {
    for (let length = 0; length < ZSTD_TEXT.length; length++) {
      expect(await zstd(ZSTD_TEXT.subarray(0, length), 2048)).toBe(undefined);
    }
  });

  it('with a Huffman tree of one symbol, for ever, is damaged at once', async () => {
    const tree = [6, 0xf0, 0x03, 0xff, 0xff, 0xff, 0x80];
    const literals = [0x42, 0x41, 0x02, ...tree, 1, 1, 0];
    const block = (literals.length << 3) | (2 << 1) | 1;
    const frame = [...MAGIC, 0x20, 100, block & 255, block >> 8, 0, ...literals];
    expect(await zstd(Uint8Array.from(frame), 512)).toBe(undefined);
  });

  it('of random or mutated bytes gives a cluster or nothing, and the next is fine', async () => {
    const property = fc.asyncProperty(mutations(ZSTD_TEXT), async (bytes) => {
      const plain = await zstd(bytes, 2048);
      expect(plain?.length ?? 2048).toBe(2048);
    });
    await fc.assert(property, { numRuns: 3000 });
    expectSame((await zstd(ZSTD_TEXT, 2048)) ?? pattern(0), TEXT);
  });
});
