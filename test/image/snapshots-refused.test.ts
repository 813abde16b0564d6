/** Changes of snapshots that are refused, before anything is changed; and what is mended before. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import * as q from '../../src/abi/qcow2.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { MemoryFile } from '../../src/image/image-file.ts';
import { checkBytes } from '../../src/image/qcow2/check.ts';
import { parseHeader, readHeader } from '../../src/image/qcow2/header.ts';
import { createSnapshot } from '../../src/image/qcow2/snapshot-edit.ts';
import { entryOf, newSnapshot, refuseLongTable } from '../../src/image/qcow2/snapshot-entries.ts';
import { expectSame } from '../backend/driver.ts';
import { readGuest } from '../model/qcow2.ts';
import { describeWithPeers } from '../support/peers.ts';
import { qemu } from './bad-inputs/bases.ts';
import { PokedImage } from './bad-inputs/poked-image.ts';
import { expectRefusal, imageFolder } from './scratch.ts';
import { type Change, change, PATH, snapshotsOf } from './snapshot-images.ts';

const ALL: readonly Change[] = ['-c', '-a', '-d'];
const CLUSTER = 4096;
/** The header, in two parts, and the refcounts of new clusters: the table and a block. */
const READS_OF_CHANGE = 4;

describeWithPeers(['qemu-img', 'qemu-io'], 'a change of snapshots', () => {
  const folder = imageFolder();

  /** A disk of 1 MiB with data at its start and end, and a snapshot `s`. */
  function image(options = '', hasSnapshot = true): PokedImage {
    const all = `cluster_size=${CLUSTER}${options}`;
    qemu(folder, 'qemu-img', ['create', '-q', '-f', 'qcow2', '-o', all, PATH, '1M']);
    const writes = ['write -q -P 1 0 20k', 'write -q -P 2 1020k 4k'];
    qemu(folder, 'qemu-io', ['-f', 'qcow2', ...writes.flatMap((one) => ['-c', one]), PATH]);
    if (hasSnapshot) qemu(folder, 'qemu-img', ['snapshot', '-c', 's', PATH]);
    if (hasSnapshot) qemu(folder, 'qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 3 4k 8k', PATH]);
    return new PokedImage(readFileSync(join(folder, PATH)));
  }

  async function expectRefused(
    bytes: Uint8Array,
    code: ErrorCode,
    message: RegExp,
    changes = ALL,
    name = 's',
  ): Promise<void> {
    for (const how of changes) {
      const file = new MemoryFile(bytes.slice());
      await expectRefusal(change(file, how, name), code, message);
      expectSame(file.bytes, bytes);
    }
  }

  it('is refused where the image is damaged', async () => {
    const l1 = (i: PokedImage): number => i.at(q.HEADER_L1_TABLE_OFFSET);
    const l2 = (i: PokedImage): number => Number(entryAt(i, l1(i)));
    const pokes: readonly (readonly [string, (i: PokedImage) => void])[] = [
      ['an L2 table inside a cluster', (i) => i.put64(l1(i), entryAt(i, l1(i)) + 512n)],
      ['an L2 table past the end', (i) => i.put64(l1(i), 0x7fff_0000n)],
      ['reserved bits in L1', (i) => i.put64(l1(i), entryAt(i, l1(i)) | 1n)],
      ['a cluster that is not aligned', (i) => i.put64(l2(i), entryAt(i, l2(i)) + 512n)],
      ['a cluster past the end', (i) => i.put64(l2(i), 0x7fff_0000n)],
      ['data in the L1 table', (i) => i.put64(l2(i), BigInt(l1(i)))],
      ['data in the header', (i) => i.put64(l2(i), entryAt(i, l1(i)))],
      ['a cluster that is free', (i) => i.put64(l2(i) + 800, BigInt(i.bytes.length - CLUSTER))],
      ['a snapshot past the end', (i) => i.put64(i.at(q.HEADER_SNAPSHOTS_OFFSET), 1n << 40n)],
      [
        'a snapshot with the L1 of the disk',
        (i) => {
          i.put64(i.at(q.HEADER_SNAPSHOTS_OFFSET), BigInt(l1(i)));
        },
      ],
      ['a flag that is wrong', (i) => i.put64(l2(i), entryAt(i, l2(i)) | (1n << 63n))],
      ['a refcount of 0', (i) => i.put16(entryAt16(i), 0)],
    ];
    for (const [title, poke] of pokes) {
      const poked = image();
      poke(poked);
      await expectRefused(poked.bytes, 'ERR_SLUICE_CORRUPT', /check and repair the image$/).catch(
        (cause: unknown) => expect.unreachable(`${title}: ${String(cause)}`),
      );
    }
  });

  it('is refused where the image is marked corrupt', async () => {
    const marked = image();
    marked.put64(q.HEADER_INCOMPATIBLE_FEATURES, 2n);
    await expectRefused(marked.bytes, 'ERR_SLUICE_CORRUPT', /the image is marked corrupt; check/);
  });

  it('is refused with an external data file, as by qemu-img', async () => {
    for (const options of [',data_file=DATA', ',data_file=DATA,data_file_raw=on']) {
      const { bytes } = image(options, false);
      expect(() => qemu(folder, 'qemu-img', ['snapshot', '-c', 's', PATH])).toThrow(/-95/);
      await expectRefused(bytes, 'ERR_SLUICE_UNSUPPORTED', /in an external data file/);
    }
  });

  it('is refused where a refcount cannot count it', async () => {
    const one = image(',refcount_bits=1', false).bytes;
    const most = /would be in use 2 times; its refcount counts to 1; delete snapshots, or convert/;
    await expectRefused(one, 'ERR_SLUICE_UNSUPPORTED', most, ['-c']);
    for (const [bits, snapshots] of [
      [2, 2],
      [4, 14],
    ] as const) {
      const file = new MemoryFile(image(`,refcount_bits=${bits}`, false).bytes);
      for (let at = 0; at < snapshots; at++) await change(file, '-c', `s${at}`);
      const found = new RegExp(
        `in use ${2 ** bits} times; its refcount counts to ${2 ** bits - 1}`,
      );
      await expectRefused(file.bytes, 'ERR_SLUICE_UNSUPPORTED', found, ['-c'], 'one more');
      // As many references go as come.
      await change(file, '-a', 's1');
      await change(file, '-d', 's0');
      await change(file, '-c', 'one more');
      expectSound(file.bytes);
    }
  });

  it('is refused where there is no such snapshot', async () => {
    const { bytes } = image();
    const missing = /has no snapshot with the (id|name) "x".*; it has 1 \(s\)$/;
    await expectRefused(bytes, 'ERR_SLUICE_INVALID_ARGUMENT', missing, ['-a', '-d'], 'x');
    const none = image('', false).bytes;
    await expectRefused(none, 'ERR_SLUICE_INVALID_ARGUMENT', /; it has none$/, ['-a', '-d'], 'x');
  });

  it('is refused with a name that cannot be listed, or a date that cannot be written', async () => {
    const { bytes } = image();
    const limit = /of UTF-8; it must have 1 to 255$/;
    for (const name of ['', 'x'.repeat(256), 'ä'.repeat(128)]) {
      await expectRefused(bytes, 'ERR_SLUICE_INVALID_ARGUMENT', limit, ['-c'], name);
    }
    for (const name of ['a\u0000b', 'a\tb', '\ud800']) {
      await expectRefused(bytes, 'ERR_SLUICE_INVALID_ARGUMENT', /or is not a text/, ['-c'], name);
    }
    const file = new MemoryFile(bytes);
    for (const date of [new Date(-1), new Date(Number.NaN), new Date(2 ** 32 * 1000)]) {
      const options = { name: 'n', date, isBlockDevice: false };
      const work = createSnapshot(file, await readHeader(file, PATH), PATH, options);
      await expectRefusal(work, 'ERR_SLUICE_INVALID_ARGUMENT', /from 1970 to 2106/);
    }
    await change(file, '-c', 'x'.repeat(255));
    expect((await snapshotsOf(file.bytes)).at(-1)?.name).toBe('x'.repeat(255));
  });

  it('is refused where the table would be too long', () => {
    const snapshot = newSnapshot([], parseHeader(image().bytes, PATH), { name: 'x'.repeat(255) });
    const entry = entryOf(snapshot);
    expect(refuseLongTable(Array(65536).fill(entry), PATH)).toBe(65536 * entry.bytes.length);
    const refused = (): number => refuseLongTable(Array(65537).fill(entry), PATH);
    expect(refused).toThrow(/65537 snapshots in .* at most 65536 in 67108864 are allowed; delete/);
  });

  it('to apply one is refused with bitmaps, as by qemu-img', async () => {
    image();
    qemu(folder, 'qemu-img', ['bitmap', '--add', PATH, 'b']);
    const bytes = readFileSync(join(folder, PATH));
    const theirs = (): string => qemu(folder, 'qemu-img', ['snapshot', '-a', 's', PATH]);
    expect(theirs).toThrow(/active dirty bitmaps/);
    await expectRefused(bytes, 'ERR_SLUICE_UNSUPPORTED', /1 bitmaps.*; remove them first$/, ['-a']);
  });

  it('ends when it is aborted, and nothing is changed', async () => {
    const { bytes } = image();
    for (let left = 0; ; left++) {
      const file = new MemoryFile(bytes.slice());
      const abort = new AbortController();
      const reads = new AbortingFile(file, left, abort);
      const options = { name: 'n', isBlockDevice: false, signal: abort.signal };
      const header = await readHeader(file, PATH);
      const [result] = await Promise.allSettled([createSnapshot(reads, header, PATH, options)]);
      if (result.status === 'fulfilled') {
        expect(left).toBe(reads.beforeWrite - READS_OF_CHANGE);
        return expectSound(file.bytes);
      }
      expect(result.reason).toBe(abort.signal.reason);
      expectSame(file.bytes, bytes);
    }
  });

  it('is made after a repair where the image was not closed', async () => {
    for (const how of ALL) {
      const dirty = image(',lazy_refcounts=on');
      dirty.put64(q.HEADER_INCOMPATIBLE_FEATURES, 1n);
      const file = new MemoryFile(dirty.bytes);
      await change(file, how, 's');
      const { dirty: isDirty } = expectSound(file.bytes);
      expect(isDirty).toBe(false);
    }
  });

  it('believes no flag of a snapshot that is applied', async () => {
    const flagged = image();
    const snapshotL1 = flagged.at(flagged.at(q.HEADER_SNAPSHOTS_OFFSET));
    const l2 = Number(entryAt(flagged, snapshotL1));
    for (const at of [snapshotL1, l2, l2 + 8]) {
      flagged.put64(at, entryAt(flagged, at) | (1n << 63n));
    }
    const file = new MemoryFile(flagged.bytes);
    await change(file, '-a', 's');
    expectSound(file.bytes);
  });

  it('takes back what features that are not known promise', async () => {
    for (const how of ALL) {
      const unknown = image();
      unknown.put64(q.HEADER_AUTOCLEAR_FEATURES, 1n << 63n);
      const file = new MemoryFile(unknown.bytes);
      await change(file, how, 's');
      expect(expectSound(file.bytes).autoclear).toBe(0n);
    }
  });

  it('is made where flags are missing, as a cut may leave them', async () => {
    for (const how of ALL) {
      const cut = image();
      const l1 = cut.at(q.HEADER_L1_TABLE_OFFSET);
      cut.put64(l1, entryAt(cut, l1));
      const guest = readGuest(cut.bytes);
      const file = new MemoryFile(cut.bytes);
      await change(file, how, 's');
      if (how !== '-a') expectSame(readGuest(file.bytes), guest);
      expectSound(file.bytes);
    }
  });
});

/** An entry without its flags. */
function entryAt(image: PokedImage, offset: number): bigint {
  const view = new DataView(image.bytes.buffer, image.bytes.byteOffset);
  return view.getBigUint64(offset) & 0x00ff_ffff_ffff_ffffn;
}

/** Where the refcount of the active L1 table stands. */
function entryAt16(image: PokedImage): number {
  const block = Number(entryAt(image, image.at(q.HEADER_REFCOUNT_TABLE_OFFSET)));
  return block + (image.at(q.HEADER_L1_TABLE_OFFSET) / CLUSTER) * 2;
}

function expectSound(bytes: Uint8Array): ReturnType<typeof parseHeader> {
  const header = parseHeader(bytes, PATH);
  const { corruptions, leaks, findings } = checkBytes(bytes, header);
  expect({ corruptions, leaks, findings }).toEqual({ corruptions: 0, leaks: 0, findings: [] });
  return header;
}

/** Aborts with a read; later ones are answered as well. */
class AbortingFile extends MemoryFile {
  readonly #file: MemoryFile;
  readonly #abort: AbortController;
  #left: number;
  #hasWritten = false;
  beforeWrite = 0;

  constructor(file: MemoryFile, left: number, abort: AbortController) {
    super();
    this.#file = file;
    this.#left = left;
    this.#abort = abort;
  }

  override get sizeBytes(): number {
    return this.#file.sizeBytes;
  }

  override read(offset: number, length: number): Promise<Uint8Array> {
    if (this.#left-- === 0) this.#abort.abort();
    if (!this.#hasWritten) this.beforeWrite++;
    return this.#file.read(offset, length);
  }

  override write(offset: number, bytes: Uint8Array): Promise<void> {
    // From here on the signal is not asked any more.
    this.#left = -1;
    this.#hasWritten = true;
    return this.#file.write(offset, bytes);
  }

  override truncate(sizeBytes: number): Promise<void> {
    return this.#file.truncate(sizeBytes);
  }
}
