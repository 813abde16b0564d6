// New images: what they are according to qemu-img, and what a power cut leaves of them.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

import { MemoryBackend } from '../../src/backend/memory.ts';
import { SluiceError } from '../../src/errors.ts';
import type { FillFile } from '../../src/image/fill.ts';
import { BackendFile, type ImageFile, MemoryFile } from '../../src/image/image-file.ts';
import { createImage, type CreateOptions } from '../../src/image/qcow2/create.ts';
import { readHeader } from '../../src/image/qcow2/header.ts';
import { Random } from '../../src/testing/random.ts';
import { describeWithPeers } from '../support/peers.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const folder = mkdtempSync(join(tmpdir(), 'sluice-create-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function bytesOf(options: CreateOptions): Promise<Uint8Array> {
  const file = new MemoryFile(new Uint8Array(1000).fill(0xa5));
  await createImage(file, options);
  return file.bytes;
}

const backing = { name: 'backing.raw', format: 'raw' } as const;
const KINDS: readonly (readonly [name: string, options: CreateOptions])[] = [
  ['of 1 GiB', { sizeBytes: GIB }],
  ['of 0 bytes', { sizeBytes: 0 }],
  ['of 1000 bytes', { sizeBytes: 1000 }],
  ['of version 2', { sizeBytes: GIB, version: 2 }],
  ['of version 2 with a backing file', { sizeBytes: MIB, version: 2, backing }],
  ['with a backing file', { sizeBytes: 2 * MIB, backing }],
  ['with a qcow2 backing file', { sizeBytes: MIB, backing: { name: 'b.qcow2', format: 'qcow2' } }],
  ['with zstd and lazy refcounts', { sizeBytes: MIB, compression: 'zstd', lazyRefcounts: true }],
  ['with extended L2 entries', { sizeBytes: 100 * MIB, extendedL2: true }],
  ['with small extended clusters', { sizeBytes: GIB, extendedL2: true, clusterBits: 14 }],
  ['with the largest clusters', { sizeBytes: 2 ** 40, clusterBits: 21 }],
  ['with the smallest clusters', { sizeBytes: 64 * MIB, clusterBits: 9 }],
  ['with a small header and a backing file', { sizeBytes: MIB, clusterBits: 9, backing }],
  ['with many small clusters', { sizeBytes: 8 * GIB, clusterBits: 9, refcountOrder: 6 }],
  ['of 256 TiB', { sizeBytes: 2 ** 48, clusterBits: 21 }],
  ...[0, 1, 2, 3, 4, 5, 6].map((refcountOrder): [string, CreateOptions] => [
    `with refcounts of ${2 ** refcountOrder} bits`,
    { sizeBytes: GIB, refcountOrder, clusterBits: 12 },
  ]),
  ['with a data file', { sizeBytes: MIB, dataFile: { name: 'data.raw', raw: false } }],
  ['with a raw data file', { sizeBytes: 20 * MIB, dataFile: { name: 'data.raw', raw: true } }],
  [
    'with a raw data file and extended L2 entries',
    { sizeBytes: 20 * MIB, extendedL2: true, dataFile: { name: 'data.raw', raw: true } },
  ],
  [
    'with a raw data file and small clusters',
    { sizeBytes: 4 * MIB, clusterBits: 9, dataFile: { name: 'data.raw', raw: true } },
  ],
  ['where every cluster is mapped', { sizeBytes: 5 * MIB + 512, preallocation: 'metadata' }],
  ['where every cluster is written', { sizeBytes: 5 * MIB + 512, preallocation: 'full' }],
  [
    'where every extended cluster is mapped, over a backing file',
    { sizeBytes: 5 * MIB, preallocation: 'falloc', extendedL2: true, backing },
  ],
];

describe('a new image', () => {
  it.each(KINDS)('has the header that was asked for: %s', async (_name, options) => {
    const bytes = await bytesOf(options);
    const header = await readHeader(new MemoryFile(bytes), 'image');
    const { clusterBits = 16, refcountOrder = 4, extendedL2 = false } = options;
    expect(header).toMatchObject({
      version: options.version ?? 3,
      headerBytes: options.version === 2 ? 72 : 112,
      clusterBits,
      refcountOrder,
      extendedL2,
      sizeBytes: Math.ceil(options.sizeBytes / 512) * 512,
      compression: options.compression ?? 'deflate',
      lazyRefcounts: options.lazyRefcounts ?? false,
      dirty: false,
      corrupt: false,
      snapshots: 0,
    });
    expect(header.backing).toEqual(options.backing);
    expect(header.dataFile).toEqual(options.dataFile);
    expect(bytes.length % 2 ** clusterBits).toBe(0);
  });

  it('is the same on a backend that is full of other bytes', async () => {
    const options = { sizeBytes: MIB, clusterBits: 9 };
    const expected = await bytesOf(options);
    const backend = new MemoryBackend({ sizeBytes: 4 * MIB });
    backend.volatile.fill(0xff);
    // A block device keeps its bytes when it is "cut".
    const kept: ImageFile = keeping(new BackendFile(backend, 'image'));
    await createImage(kept, options);
    expect(Buffer.compare(backend.volatile.subarray(0, expected.length), expected)).toBe(0);
  });

  it('shows nothing of what a block device held, where every cluster is mapped (C3)', async () => {
    const options = { sizeBytes: MIB, clusterBits: 12, preallocation: 'metadata' } as const;
    const expected = await bytesOf(options);
    const backend = new MemoryBackend({ sizeBytes: 4 * MIB });
    backend.volatile.fill(0xff);
    const kept = keeping(new BackendFile(backend, 'image'));
    await createImage({ ...kept, keepsBytes: true }, options);
    expect(Buffer.compare(backend.volatile.subarray(0, expected.length), expected)).toBe(0);
  });

  it('never opens before it is whole, wherever the power is cut (C1)', async () => {
    for (const options of [
      { sizeBytes: MIB, clusterBits: 9 },
      { sizeBytes: MIB, clusterBits: 9, dataFile: { name: 'd', raw: true } },
      { sizeBytes: MIB, clusterBits: 12, preallocation: 'metadata' },
      { sizeBytes: MIB / 4, clusterBits: 9, preallocation: 'full' },
    ] as const) {
      const before = await bytesOf({ sizeBytes: 2 * MIB, clusterBits: 9, refcountOrder: 0 });
      const whole = await bytesOf(options);
      let opened = 0;
      for await (const state of crashStates(before, options)) {
        const isOld = Buffer.compare(state.subarray(0, before.length), before) === 0;
        if (isOld || !(await opens(state))) continue;
        opened++;
        expect(Buffer.compare(state.subarray(0, whole.length), whole)).toBe(0);
      }
      expect(opened).toBeGreaterThan(0);
    }
  });

  it.each<[string, unknown, RegExp]>([
    ['a version', { version: 4 }, /version must be a whole number from 2 to 3, not 4/],
    ['small clusters', { clusterBits: 8 }, /from 9 to 21, not 8/],
    ['large clusters', { clusterBits: 22 }, /from 9 to 21, not 22/],
    ['small extended clusters', { clusterBits: 13, extendedL2: true }, /from 14 to 21, not 13/],
    ['refcounts', { refcountOrder: 7 }, /refcountOrder must be a whole number from 0 to 6/],
    ['a size', { sizeBytes: -1 }, /sizeBytes must be/],
    ['half a byte', { sizeBytes: 0.5 }, /sizeBytes must be/],
    ['more than the L1 table can hold', { sizeBytes: 2 ** 40, clusterBits: 9 }, /larger clusters/],
    [
      'a compression',
      { compression: 'lzma' },
      /compression must be 'deflate' or 'zstd', not "lzma"/,
    ],
    ['zstd in version 2', { version: 2, compression: 'zstd' }, /version 2 of qcow2 knows no/],
    ['refcounts in version 2', { version: 2, refcountOrder: 3 }, /version 2 of qcow2 knows no/],
    ['a data file in version 2', { version: 2, dataFile: { name: 'd', raw: false } }, /version 2/],
    ['a format', { backing: { name: 'b', format: 'vmdk' } }, /'raw' or 'qcow2', not "vmdk"/],
    ['no format', { backing: { name: 'b' } }, /backing.format must be 'raw' or 'qcow2'/],
    ['an empty name', { backing: { ...backing, name: '' } }, /length of backing.name/],
    ['a long name', { backing: { ...backing, name: 'x'.repeat(1024) } }, /from 1 to 1023/],
    ['a NUL', { backing: { ...backing, name: 'a\0b' } }, /Unicode without NUL/],
    ['half a character', { backing: { ...backing, name: 'a\ud800' } }, /Unicode without NUL/],
    [
      'a name that does not fit',
      { clusterBits: 9, backing: { ...backing, name: 'x'.repeat(400) } },
      /larger clusters/,
    ],
    [
      'a raw data file beside a backing file',
      { backing, dataFile: { name: 'd', raw: true } },
      /there cannot be a backing file/,
    ],
    ['a preallocation', { preallocation: 'some' }, /'falloc' or 'full', not "some"/],
    ['what hides a backing file', { backing, preallocation: 'full' }, /hide the backing file/],
    ['a key', { encryption: { key: 5 } }, /encryption.key must be a string or a Uint8Array/],
    ['a cipher', { encryption: { key: 'k', cipher: 'des' } }, /'aes-128' or 'aes-256', not "des"/],
    ['a hash', { encryption: { key: 'k', hash: 'md5' } }, /'sha256' or 'sha512', not "md5"/],
    ['no time', { encryption: { key: 'k', iterTimeMs: 0 } }, /iterTimeMs must be a whole number/],
    [
      'noise',
      { encryption: { key: 'k' }, version: 2, preallocation: 'metadata' },
      /reads as noise; use version 3/,
    ],
    [
      'an encrypted raw data file',
      { encryption: { key: 'k' }, dataFile: { name: 'd', raw: true } },
      /a raw data file is not encrypted/,
    ],
  ])('is refused before the file is touched: %s', async (_name, options, message) => {
    const file = new MemoryFile(new Uint8Array(1000).fill(7));
    const asked = { sizeBytes: MIB, ...(options as object) };
    const error: unknown = await createImage(file, asked).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(SluiceError);
    expect(error).toMatchObject({ code: 'ERR_SLUICE_INVALID_ARGUMENT' });
    expect((error as SluiceError).message).toMatch(message);
    expect(file.bytes).toEqual(new Uint8Array(1000).fill(7));
  });
});

/** The same file, but that it does not lose bytes when it is cut and extended. */
function keeping(file: ImageFile): ImageFile {
  return {
    sizeBytes: file.sizeBytes,
    read: (offset, length) => file.read(offset, length),
    write: (offset, bytes) => file.write(offset, bytes),
    truncate: () => Promise.resolve(),
    sync: () => file.sync(),
  };
}

async function opens(bytes: Uint8Array): Promise<boolean> {
  return readHeader(new MemoryFile(bytes), 'image').then(
    () => true,
    () => false,
  );
}

/** What a power cut leaves in every phase: some sectors of what was not yet synced. */
async function* crashStates(before: Uint8Array, options: CreateOptions) {
  let stable = before.slice();
  let written: (readonly [offset: number, sector: Uint8Array])[] = [];
  const phases: { stable: Uint8Array; written: typeof written }[] = [];
  const file: FillFile = {
    keepsBytes: true,
    sizeBytes: before.length,
    read: () => Promise.reject(new Error('nothing is read')),
    write: (offset, bytes) => {
      for (let at = 0; at < bytes.length; at += 512) {
        written.push([offset + at, bytes.slice(at, at + 512)]);
      }
      return Promise.resolve();
    },
    truncate: () => Promise.resolve(),
    sync: () => {
      phases.push({ stable, written });
      stable = applied(stable, written);
      written = [];
      return Promise.resolve();
    },
  };
  await createImage(file, options);
  phases.push({ stable, written });
  const random = new Random(1);
  for (const phase of phases) {
    yield phase.stable;
    for (let sample = 0; sample < 50; sample++) {
      yield applied(
        phase.stable,
        phase.written.filter(() => random.chance(sample / 50)),
      );
    }
  }
}

function applied(bytes: Uint8Array, writes: readonly (readonly [number, Uint8Array])[]) {
  const ends = writes.map(([offset, sector]) => offset + sector.length);
  const next = new Uint8Array(Math.max(bytes.length, ...ends));
  next.set(bytes);
  for (const [offset, sector] of writes) next.set(sector, offset);
  return next;
}

describeWithPeers(['qemu-img', 'qemu-io'], 'a new image according to QEMU', () => {
  function qemu(program: string, ...args: string[]): string {
    return execFileSync(program, args, { cwd: folder, encoding: 'utf8' });
  }

  interface Info {
    readonly [key: string]: unknown;
    readonly 'format-specific': { readonly data: Readonly<Record<string, unknown>> };
  }

  async function make(options: CreateOptions): Promise<void> {
    writeFileSync(join(folder, 'image.qcow2'), await bytesOf(options));
    writeFileSync(join(folder, 'data.raw'), new Uint8Array(20 * MIB));
    writeFileSync(join(folder, 'backing.raw'), new Uint8Array(MIB).fill(9));
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', 'b.qcow2', '1M');
  }

  it.each(KINDS)('is sound and as asked: %s', async (_name, options) => {
    await make(options);
    qemu('qemu-img', 'check', '-q', 'image.qcow2');
    const info = JSON.parse(qemu('qemu-img', 'info', '--output=json', 'image.qcow2')) as Info;
    const { clusterBits = 16, refcountOrder = 4 } = options;
    expect(info).toMatchObject({
      'virtual-size': Math.ceil(options.sizeBytes / 512) * 512,
      'cluster-size': 2 ** clusterBits,
      format: 'qcow2',
    });
    expect(info['backing-filename']).toBe(options.backing?.name);
    expect(info['backing-filename-format']).toBe(options.backing?.format);
    const { data } = info['format-specific'];
    expect(data).toMatchObject({
      compat: options.version === 2 ? '0.10' : '1.1',
      'refcount-bits': 2 ** refcountOrder,
      'compression-type': options.compression === 'zstd' ? 'zstd' : 'zlib',
    });
    if (options.version === 2) return;
    expect([data['lazy-refcounts'], data['extended-l2'], data['corrupt']]).toEqual([
      options.lazyRefcounts ?? false,
      options.extendedL2 ?? false,
      false,
    ]);
    expect([data['data-file'], data['data-file-raw']]).toEqual([
      options.dataFile?.name,
      options.dataFile?.raw,
    ]);
  });

  it.each(KINDS.filter(([, { sizeBytes }]) => sizeBytes >= MIB))(
    'is written and read: %s',
    async (_name, options) => {
      await make(options);
      const [first, last] = ['read -P 9 0 4096', `write -P 5 ${options.sizeBytes - 70_000} 70000`];
      const reads = options.backing === backing ? first : 'read -P 0 0 4096';
      const io = [reads, last, 'write -P 6 4096 4096', reads, 'read -P 6 4096 4096'];
      const told = qemu('qemu-io', ...io.flatMap((command) => ['-c', command]), 'image.qcow2');
      expect(told).not.toMatch(/fail|error/i);
      qemu('qemu-img', 'check', '-q', 'image.qcow2');
    },
  );

  it('has the shape that QEMU gives it', async () => {
    const same: [string, CreateOptions][] = [
      ['compat=1.1', { sizeBytes: GIB }],
      [
        'compat=0.10,backing_file=backing.raw,backing_fmt=raw',
        { sizeBytes: GIB, version: 2, backing },
      ],
      [
        'compression_type=zstd,lazy_refcounts=on,cluster_size=4k',
        {
          sizeBytes: GIB,
          compression: 'zstd',
          lazyRefcounts: true,
          clusterBits: 12,
        },
      ],
      [
        'data_file=data.raw,data_file_raw=on',
        {
          sizeBytes: 20 * MIB,
          dataFile: { name: 'data.raw', raw: true },
        },
      ],
    ];
    for (const [text, options] of same) {
      await make(options);
      const asked = ['-o', text, 'qemu.qcow2', String(options.sizeBytes)];
      qemu('qemu-img', 'create', '-q', '-f', 'qcow2', ...asked);
      const ours = await bytesOf(options);
      const theirs = new MemoryFile();
      await theirs.write(0, readFileSync(join(folder, 'qemu.qcow2')));
      await theirs.truncate(ours.length);
      expect(Buffer.compare(ours, theirs.bytes)).toBe(0);
    }
  });
});
