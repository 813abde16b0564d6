import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { beforeAll, expect, it } from 'vitest';

import * as q from '../../src/abi/qcow2.ts';
import { type ErrorCode, SluiceError } from '../../src/errors.ts';
import { MemoryFile } from '../../src/image/image-file.ts';
import { parseHeader, type Qcow2Header, readHeader } from '../../src/image/qcow2/header.ts';
import { refuseDamagedLayout } from '../../src/image/qcow2/header-layout.ts';
import { describeWithPeers } from '../support/peers.ts';
import { basePath, type BaseName, makeBases } from './bad-inputs/bases.ts';
import { PokedImage } from './bad-inputs/poked-image.ts';
import { badInputs, expectRefusal, imageFolder } from './scratch.ts';

const MIB = 1024 * 1024;
const NAME = 'case.qcow2';
const folder = imageFolder();
const bases = new Map<BaseName, Uint8Array>();

function base(name: BaseName): Uint8Array {
  const bytes = bases.get(name) ?? readFileSync(basePath(folder, name));
  bases.set(name, bytes);
  return bytes;
}

function poked(name: BaseName, poke: (image: PokedImage) => void): Uint8Array {
  const image = new PokedImage(base(name));
  poke(image);
  return image.bytes;
}

/** What an opener asks of the header. */
async function open(bytes: Uint8Array, writable = false): Promise<Qcow2Header> {
  const file = new MemoryFile(bytes);
  const header = await readHeader(file, NAME);
  refuseDamagedLayout(header, { fileBytes: file.sizeBytes, path: NAME, writable });
  return header;
}

const IMAGE = 'ERR_SLUICE_IMAGE';
const UNSUPPORTED = 'ERR_SLUICE_UNSUPPORTED';
const CORRUPT = 'ERR_SLUICE_CORRUPT';

/** Rows whose header is refused, even by a reader. */
const REFUSED: Readonly<Record<string, readonly [ErrorCode, RegExp]>> = {
  Q01: [IMAGE, /at offset 0: this is not a qcow2 image/],
  Q02: [IMAGE, /the file has 71 bytes/],
  Q03: [IMAGE, /the file has 80 bytes/],
  Q04: [IMAGE, /not a qcow2 image/],
  Q05: [UNSUPPORTED, /at offset 4: version 1;/],
  Q06: [UNSUPPORTED, /at offset 4: version 4;/],
  Q07: [IMAGE, /at offset 20: the cluster size is 2\^8;/],
  Q08: [IMAGE, /the cluster size is 2\^22;/],
  Q09: [IMAGE, /the cluster size is 2\^64;/],
  Q10: [IMAGE, /the cluster size is 2\^4294967295;/],
  Q11: [IMAGE, /at offset 24: the size of the disk is 0xffffffffffffffff;/],
  Q12: [IMAGE, /the size of the disk is 0x8000000000000000;/],
  Q13: [IMAGE, /at offset 36: the L1 table has 1 entries; the disk needs 2097152/],
  Q16: [UNSUPPORTED, /at offset 32: encryption method 3;/],
  Q17: [IMAGE, /encryption method 2, without a LUKS header/],
  Q19: [IMAGE, /the L1 table has 34359738360 bytes, more than 33554432/],
  Q20: [IMAGE, /the L1 table has 33554440 bytes, more than 33554432/],
  Q21: [IMAGE, /the L1 table has 0 entries; the disk needs 1/],
  Q22: [IMAGE, /at offset 40: the offset of the L1 table is 0x30200; it must be a multiple/],
  Q23: [IMAGE, /the offset of the L1 table is 0xffffffffffff0000;/],
  Q24: [CORRUPT, /the L1 table at 0x40000000 \(8 bytes\) passes the end of the file/],
  Q26: [IMAGE, /at offset 48: the offset of the refcount table is 0x10008;/],
  Q27: [IMAGE, /the offset of the refcount table is 0xffffffffffff0000;/],
  Q28: [CORRUPT, /there is no refcount table; check and repair/],
  Q29: [IMAGE, /at offset 56: the refcount table has 8454144 bytes, more than 8388608/],
  Q30: [IMAGE, /the refcount table has 281474976645120 bytes/],
  Q32: [IMAGE, /at offset 96: refcounts have 2\^7 bits/],
  Q33: [IMAGE, /refcounts have 2\^4294967295 bits/],
  Q34: [IMAGE, /at offset 100: its length is 103;/],
  Q35: [IMAGE, /its length is 65537;/],
  Q36: [IMAGE, /its length is 4294967295;/],
  Q37: [UNSUPPORTED, /at offset 72: .* does not know: unnamed \(bit 10\)/],
  Q38: [UNSUPPORTED, /does not know: unnamed \(bit 63\)/],
  Q43: [IMAGE, /at offset 104: compression type 0, while its feature bit is set/],
  Q44: [IMAGE, /compression type 1, while its feature bit is clear/],
  Q45: [UNSUPPORTED, /compression type 7;/],
  Q47: [IMAGE, /extension 0xffffffff has 305419896 bytes, where 65456 are left/],
  Q48: [IMAGE, /at offset 16: the backing file's name has 1024 bytes; at most 1023/],
  Q49: [IMAGE, /the backing file's name has 4294967295 bytes;/],
  Q50: [IMAGE, /at offset 8: the backing file's name is at 0x10001;/],
  Q51: [IMAGE, /the backing file's name is at 0xffffffffffffffff;/],
  Q52: [IMAGE, /the backing file's name is at 0x10; it must lie between/],
  Q56: [IMAGE, /the backing file's name of 8 bytes has a NUL at its byte 4/],
  Q58: [IMAGE, /at offset 112: extension 0x12345678 has 2147483647 bytes/],
  Q59: [IMAGE, /extension 0x12345678 has 65417 bytes, where 65416 are left/],
  Q61: [IMAGE, /at offset 184: extension 0x1636f has 1920103792 bytes/],
  Q98: [IMAGE, /at offset 60: there are 4294967295 snapshots, more than 65536/],
  Q99: [IMAGE, /there are 65537 snapshots/],
  Q100: [IMAGE, /at offset 64: the offset of the snapshot table/],
  Q108: [IMAGE, /at offset 20: clusters have 2\^13 bytes; extended L2 entries need 2\^14/],
  Q113: [IMAGE, /the offset of the bitmap directory is 0x123456;/],
  Q114: [IMAGE, /the size of the bitmap directory is 0xffffffffffffffff;/],
  Q115: [IMAGE, /there are 0 bitmaps; it must be 1 to 65535/],
};

/** Rows that a reader may open, and a writer may not. */
const READ_ONLY: Readonly<Record<string, RegExp>> = {
  Q25: /the L1 table at 0x0 \(8 bytes\) overlaps the header/,
  Q31: /the refcount table at 0x0 \(65536 bytes\) overlaps the header/,
  Q96: /overlaps the .* table at 0x30000/,
};

/** Rows that open, and what their header says then. */
const OPENS: Readonly<Record<string, Partial<Qcow2Header>>> = {
  Q14: { sizeBytes: 0 },
  Q15: { sizeBytes: 64 * MIB - 512 },
  Q18: { cryptMethod: q.CRYPT_AES },
  Q39: { dirty: true, corrupt: false },
  Q40: { dirty: false, corrupt: true },
  Q41: { compatible: 1n << 40n, lazyRefcounts: false },
  Q42: { autoclear: 1n << 40n },
  Q46: { dataFile: { raw: false } },
  Q53: { backing: { name: NAME, format: 'raw' } },
  Q54: { backing: { name: 'json:{"driver":"null-co","size":1048576}', format: 'raw' } },
  Q55: { backing: { name: 'nbd://127.0.0.1:1/x', format: 'raw' } },
  Q57: { backing: { name: 'nope.raw', format: 'raw' } },
  Q62: { backing: { name: 'back.raw', format: 'vmdk' } },
  Q109: { dataFile: { name: '/etc/passwd', raw: false } },
  Q110: { dataFile: { name: 'json:{"a":1}', raw: false } },
  Q112: { dataFile: { name: 'base-data.raw', raw: true } },
  Q117: { bitmaps: { count: 0, directoryOffset: 0, directoryBytes: 0, consistent: false } },
};

/** Rows that are decided elsewhere: in the tables, in the map, by the policy. */
const ELSEWHERE = [
  'Q60',
  ...badInputs(63, 95).map(({ id }) => id),
  'Q97',
  ...badInputs(101, 107).map(({ id }) => id),
  'Q111',
  'Q116',
  ...badInputs(118, 120).map(({ id }) => id),
];

describeWithPeers(['qemu-img', 'qemu-io'], 'the header of a damaged image', () => {
  beforeAll(() => makeBases(folder));

  for (const { id, base: name, title, poke } of badInputs(1, 120)) {
    const refusal = REFUSED[id];
    const readOnly = READ_ONLY[id];
    const fields = OPENS[id];
    if (refusal !== undefined) {
      it(`is refused: ${id} ${title}`, async () => {
        await expectRefusal(open(poked(name, poke)), ...refusal);
      });
    } else if (readOnly !== undefined) {
      it(`is refused to writers: ${id} ${title}`, async () => {
        const bytes = poked(name, poke);
        expect(await open(bytes)).toMatchObject({ version: 3 });
        await expectRefusal(open(bytes, true), CORRUPT, readOnly);
      });
    } else if (fields !== undefined) {
      it(`says what it says: ${id} ${title}`, async () => {
        expect(await open(poked(name, poke), true)).toMatchObject(fields);
      });
    } else {
      it(`is as good as any: ${id} ${title}`, async () => {
        expect(ELSEWHERE).toContain(id);
        await open(poked(name, poke), true);
      });
    }
  }

  it('keeps extensions that nobody knows, and walks no further than the cluster', async () => {
    const [row] = badInputs(60, 60);
    const header = await open(poked('v3', row!.poke));
    expect(header.unknownExtensions).toHaveLength(2041);
    const [first] = header.unknownExtensions;
    expect(first).toEqual({
      type: 0x12345678,
      bytes: Uint8Array.of(0x12, 0x34, 0x56, 0x78, 0, 0, 0, 8),
    });
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'the name of a format', () => {
  beforeAll(() => makeBases(folder, ['back']));

  it('has at most 15 bytes', async () => {
    const poke = (image: PokedImage): void => {
      const at = image.extension(q.EXTENSION_FEATURE_NAMES);
      image.put(at - 8, '\xe2\x79\x2a\xca');
      image.put32(image.extension(q.EXTENSION_BACKING_FORMAT) - 8, 0x12345678);
    };
    const opened = open(poked('back', poke));
    await expectRefusal(opened, IMAGE, /the backing format has 384 bytes, more than 15/);
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'a rule of the header', () => {
  beforeAll(() => makeBases(folder));

  const refused = (
    name: BaseName,
    poke: (image: PokedImage) => void,
    code: ErrorCode,
    message: RegExp,
  ): Promise<void> => expectRefusal(open(poked(name, poke), true), code, message);

  it('names unknown features as the image names them, without control characters', async () => {
    const poke = (image: PokedImage): void => {
      const row = image.extension(q.EXTENSION_FEATURE_NAMES);
      image.put(row, '\0\x0awarp\u0007 drive\0');
      image.put64(q.HEADER_INCOMPATIBLE_FEATURES, (1n << 10n) | (1n << 11n));
    };
    await refused('v3', poke, UNSUPPORTED, /: warp\? drive \(bit 10\), unnamed \(bit 11\)$/);
  });

  it('refuses a raw data file beside a backing file, or without the feature', async () => {
    const raw = (image: PokedImage): void => image.put64(q.HEADER_AUTOCLEAR_FEATURES, 2n);
    await refused('v3', raw, IMAGE, /raw, but there is no external data file/);
    const both = (image: PokedImage): void => {
      raw(image);
      image.put64(q.HEADER_INCOMPATIBLE_FEATURES, 4n);
    };
    await refused('back', both, IMAGE, /raw, but there is a backing file/);
  });

  it('refuses snapshots beside a data file', async () => {
    const poke = (image: PokedImage): void => image.put32(q.HEADER_NB_SNAPSHOTS, 1);
    await refused('data', poke, IMAGE, /snapshots beside an external data file/);
  });

  it('refuses bitmaps that are said to be consistent where there are none', async () => {
    const poke = (image: PokedImage): void => image.put64(q.HEADER_AUTOCLEAR_FEATURES, 1n);
    await refused('v3', poke, IMAGE, /but the image has none/);
  });

  it('refuses a bitmaps extension of another length, and reserved bits in it', async () => {
    const at = (image: PokedImage): number => image.extension(q.EXTENSION_BITMAPS);
    await refused('bm', (image) => image.put32(at(image) - 4, 20), IMAGE, /it must have 24/);
    await refused('bm', (image) => image.put32(at(image) + 4, 1), IMAGE, /reserved field is 0x1/);
    const size = BigInt(q.BITMAP_DIRECTORY_BYTES_MAX + 1);
    await refused('bm', (image) => image.put64(at(image) + 8, size), IMAGE, /more than 67107840/);
  });

  it('refuses a known extension that stands there twice, and a table of broken rows', async () => {
    const table = (image: PokedImage): number => image.extension(q.EXTENSION_FEATURE_NAMES);
    const twice = (image: PokedImage): void => {
      image.put(image.extension(q.EXTENSION_BITMAPS) - 8, 'h\x03\xf8\x57');
    };
    await refused('bm', twice, IMAGE, /there is a second feature name table extension/);
    const broken = (image: PokedImage): void => image.put32(table(image) - 4, 383);
    await refused('v3', broken, IMAGE, /rows of 48 bytes, this one 383 bytes/);
  });

  it('refuses an end marker that is longer than the cluster', async () => {
    const poke = (image: PokedImage): void => {
      const table = image.extension(q.EXTENSION_FEATURE_NAMES);
      image.put32(table + image.u32(table - 4) + 4, 0x7fffffff);
    };
    await refused('v3', poke, IMAGE, /extension 0x0 has 2147483647 bytes/);
  });

  it('refuses a name that is not UTF-8', async () => {
    const poke = (image: PokedImage): void => image.nameBacking('b\xe4ck.raw');
    await refused('back', poke, IMAGE, /is not UTF-8/);
  });

  it('takes a backing offset without a length for no backing file', async () => {
    const poke = (image: PokedImage): void => image.put32(q.HEADER_BACKING_FILE_SIZE, 0);
    expect(await open(poked('back', poke))).not.toHaveProperty('backing');
  });

  it('refuses a header length that is not a multiple of 8', async () => {
    const poke = (image: PokedImage): void => image.put32(q.HEADER_LENGTH, 108);
    await refused('v3', poke, IMAGE, /its length is 108; it must be a multiple of 8/);
  });

  it('refuses to write where the refcount table passes the end of the file', async () => {
    const poke = (image: PokedImage): void =>
      image.put64(q.HEADER_REFCOUNT_TABLE_OFFSET, 0x40000000n);
    await refused('v3', poke, CORRUPT, /the refcount table at 0x40000000/);
    expect(await open(poked('v3', poke))).toMatchObject({ refcountTableOffset: 0x40000000 });
  });

  it('refuses to write where the snapshot table or the bitmap directory hits a table', async () => {
    const snapshots = (image: PokedImage): void =>
      image.put64(q.HEADER_SNAPSHOTS_OFFSET, BigInt(image.l1));
    await refused('snap', snapshots, CORRUPT, /overlaps .*0x30000/);
    const bitmaps = (image: PokedImage): void =>
      image.put64(image.extension(q.EXTENSION_BITMAPS) + 16, BigInt(image.refcountTable));
    await refused('bm', bitmaps, CORRUPT, /overlaps .*0x10000/);
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'any bytes in a header', () => {
  beforeAll(() => makeBases(folder, ['v3', 'v2', 'back', 'data', 'bm', 'snap', 'small']));

  const names = ['v3', 'v2', 'back', 'data', 'bm', 'snap', 'small'] as const;

  it('give a header or a SluiceError, at once', () => {
    const bytes = fc.array(fc.tuple(fc.nat(800), fc.nat(255)), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(fc.constantFrom(...names), bytes, (name, pokes) => {
        const image = new Uint8Array(base(name));
        for (const [offset, value] of pokes) image[offset] = value;
        try {
          const header = parseHeader(image, NAME);
          expect(header.l1Entries * 8).toBeLessThanOrEqual(q.L1_BYTES_MAX);
        } catch (error) {
          expect(error).toBeInstanceOf(SluiceError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});
