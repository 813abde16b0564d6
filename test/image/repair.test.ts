/** Repairs: what can be put right is, what the guest reads stays, and a cut harms nothing. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { checkBytes, type CheckReport } from '../../src/image/qcow2/check.ts';
import { parseHeader, type Qcow2Header } from '../../src/image/qcow2/header.ts';
import { repairDirty, repairImage } from '../../src/image/qcow2/repair.ts';
import { MemoryFile } from '../../src/image/image-file.ts';
import { Random } from '../../src/testing/random.ts';
import { readGuest } from '../model/qcow2.ts';
import { describeWithPeers } from '../support/peers.ts';
import { basePath, makeBases } from './bad-inputs/bases.ts';
import { PokedImage } from './bad-inputs/poked-image.ts';
import { BAD_INPUTS } from './bad-inputs/rows.ts';
import { KINDS, type Made, make, remove } from './check-images.ts';
import { damage, damageRefcounts } from './damage.ts';

const DAMAGED_IMAGES = Number(process.env['SLUICE_REPAIR_IMAGES'] ?? 150);
const LONGEST_MS = 120_000 + DAMAGED_IMAGES * 200;
const CUT_IMAGES = Math.ceil(DAMAGED_IMAGES / 3);

/** Where only refcounts and flags are wrong. */
const REPAIRABLE_INPUTS = 'Q28 Q78 Q79 Q82 Q89 Q90 Q91 Q92 Q93 Q94 Q95 Q97 Q117'.split(' ');

describeWithPeers(['qemu-img', 'qemu-io'], 'a repair', () => {
  const bases = mkdtempSync(join(tmpdir(), 'sluice-qcow2-'));
  let images: Made[] = [];
  beforeAll(() => {
    images = KINDS.map(make);
    makeBases(bases);
  });
  afterAll(() => {
    images.forEach(remove);
    rmSync(bases, { recursive: true, force: true });
  });

  it('changes nothing in an intact image', async () => {
    for (const { kind, bytes, path } of images) {
      const file = new MemoryFile(bytes.slice());
      const report = await repairImage(file, parseHeader(bytes, path), 'all');
      expect(report.isConsistent, kind.name).toBe(true);
      expect(Buffer.compare(file.bytes, bytes), kind.name).toBe(0);
    }
  });

  it(
    'puts refcounts and flags right, and qemu-img agrees',
    async () => {
      for (let seed = 0; seed < DAMAGED_IMAGES; seed++) {
        const made = images[seed % images.length]!;
        const { bytes, deeds } = damageRefcounts(made.bytes, seed);
        const what = `seed ${seed} (${made.kind.name}): ${deeds.join('; ')}`;
        const file = new MemoryFile(bytes);
        const { after, isConsistent, header } = await repairImage(file, headerOf(bytes), 'all');
        expect(after.findings, what).toEqual([]);
        expect(isConsistent, what).toBe(true);
        expect(headerOf(file.bytes), what).toEqual(header);
        expect(clustersOf(made, file.bytes), what).toEqual(clustersOf(made, made.bytes));
        expect(qemuCheck(made, file.bytes), what).toBe(0);
      }
    },
    LONGEST_MS,
  );

  it(
    'leaves what a guest can read as it is, whatever is damaged',
    async () => {
      for (let seed = 0; seed < DAMAGED_IMAGES; seed++) {
        const made = images[seed % images.length]!;
        const { bytes, deeds } = damage(made.bytes, seed);
        const what = `seed ${seed} (${made.kind.name}): ${deeds.join('; ')}`;
        const header = tryHeaderOf(bytes);
        if (header === undefined) continue;
        const before = clustersOf(made, bytes);
        const file = new MemoryFile(bytes.slice());
        const report = await repairImage(file, header, 'all');
        // What is used for two purposes by a damaged table cannot be counted right.
        const { 'past-end': pastEnd, overlap } = report.before.counts;
        const isBounded = pastEnd === undefined && overlap === undefined;
        if (isBounded) expect(report.after.counts['refcount-too-low'], what).toBeUndefined();
        const after = clustersOf(made, file.bytes);
        const isReadable = (_: unknown, index: number): boolean => before[index] !== undefined;
        expect(after.filter(isReadable), what).toEqual(before.filter(isReadable));
      }
    },
    LONGEST_MS,
  );

  it('can be cut anywhere and done again', async () => {
    for (let seed = 0; seed < CUT_IMAGES; seed++) {
      const made = images[seed % images.length]!;
      const { bytes, deeds } = damageRefcounts(made.bytes, seed);
      const log = new LoggedFile(bytes);
      const { before } = await repairImage(log, headerOf(bytes), 'all');
      const random = new Random(seed);
      for (let end = 0; end <= log.writes.length; end++) {
        const what = `seed ${seed} (${made.kind.name}), cut ${end}: ${deeds.join('; ')}`;
        const cut = log.cutAt(end, random);
        expect(clustersOf(made, cut), what).toEqual(clustersOf(made, made.bytes));
        expectNotWorse(checkBytes(cut, headerOf(cut)), before, what);
        const file = new MemoryFile(cut);
        const { after, isConsistent } = await repairImage(file, headerOf(cut), 'all');
        expect(after.findings, what).toEqual([]);
        expect(isConsistent, what).toBe(true);
        expect(clustersOf(made, file.bytes), what).toEqual(clustersOf(made, made.bytes));
      }
    }
  });

  it.each(REPAIRABLE_INPUTS)('puts %s of the bad inputs right', async (id) => {
    const row = BAD_INPUTS.find((row) => row.id === id)!;
    const image = new PokedImage(readFileSync(basePath(bases, row.base)));
    row.poke(image);
    const file = new MemoryFile(image.bytes);
    const { before, isConsistent } = await repairImage(file, headerOf(image.bytes), 'all');
    expect(before.findings.length).toBeGreaterThan(0);
    expect(isConsistent).toBe(true);
    writeFileSync(join(bases, 'repaired'), file.bytes);
    expect(spawnSync('qemu-img', ['check', 'repaired'], { cwd: bases }).status).toBe(0);
  });

  it('frees leaks alone only where nothing else is wrong', async () => {
    const { bytes } = images.find(({ kind }) => kind.name === '4k')!;
    const image = new PokedImage(bytes);
    const cluster = bytes.length / 4096;
    image.put16(image.refcountBlock + 2 * (cluster + 1), 1);
    image.truncate(bytes.length + 2 * 4096);
    const file = new MemoryFile(new Uint8Array(image.bytes));
    const { before, after } = await repairImage(file, headerOf(image.bytes), 'leaks');
    expect([before.leaks, after.leaks]).toEqual([1, 0]);
    image.put16(image.refcountBlock, 0);
    const worse = new MemoryFile(new Uint8Array(image.bytes));
    const report = await repairImage(worse, headerOf(image.bytes), 'leaks');
    expect(report.after).toBe(report.before);
    expect(Buffer.compare(worse.bytes, image.bytes)).toBe(0);
  });

  it('keeps every leak where a reference may be lost, and the mark of corruption', async () => {
    const { bytes } = images.find(({ kind }) => kind.name === '4k')!;
    const image = new PokedImage(bytes);
    image.put64(image.l1, image.u64(image.l1) | 0x200n);
    image.put8(79, 2);
    const file = new MemoryFile(new Uint8Array(image.bytes));
    const { before, after, isConsistent, header } = await repairImage(file, headerOf(bytes), 'all');
    expect(before.leaks).toBeGreaterThan(0);
    expect(after.leaks).toBe(before.leaks);
    expect(isConsistent).toBe(false);
    const dirty = { ...header, dirty: true };
    await expect(repairDirty(file, dirty, 'IMAGE')).rejects.toThrow(
      /not at the start of a cluster/,
    );
  });

  it('does not call an image right whose data may be metadata', async () => {
    const { bytes } = images.find(({ kind }) => kind.name === '4k')!;
    const image = new PokedImage(bytes);
    image.put64(image.l2, (1n << 63n) | BigInt(image.refcountBlock));
    const file = new MemoryFile(new Uint8Array(image.bytes));
    const { after, isConsistent } = await repairImage(file, headerOf(bytes), 'all');
    expect(after.corruptions).toBe(0);
    expect(isConsistent).toBe(false);
  });

  it('puts nothing where the image refers past the end of its file', async () => {
    const { bytes } = images.find(({ kind }) => kind.name === '4k')!;
    const image = new PokedImage(bytes);
    image.put64(image.l2, (1n << 63n) | BigInt(bytes.length));
    image.put64(image.refcountTable, 0n);
    const file = new MemoryFile(new Uint8Array(image.bytes));
    expect((await repairImage(file, headerOf(bytes), 'all')).isConsistent).toBe(false);
    expect(Buffer.compare(file.bytes, image.bytes)).toBe(0);
  });

  it('clears unknown autoclear bits before it changes anything', async () => {
    const { bytes } = images.find(({ kind }) => kind.name === '4k')!;
    const image = new PokedImage(bytes);
    image.put64(88, 1n << 40n);
    image.put16(image.refcountBlock, 2);
    const file = new MemoryFile(new Uint8Array(image.bytes));
    const { header } = await repairImage(file, headerOf(image.bytes), 'all');
    expect(header.autoclear).toBe(0n);
    expect(headerOf(file.bytes)).toEqual(header);
  });

  it('clears the dirty mark of an image that is right again', async () => {
    const { bytes, kind } = images.find(({ kind }) => kind.name === 'lazy')!;
    const dirty = damageRefcounts(bytes, 1).bytes;
    dirty[79]! |= 1;
    const header = headerOf(dirty);
    expect(header.dirty, kind.name).toBe(true);
    const file = new MemoryFile(dirty);
    expect((await repairDirty(file, header, 'IMAGE')).dirty).toBe(false);
    expect(headerOf(file.bytes).dirty).toBe(false);
    expect(checkBytes(file.bytes, headerOf(file.bytes)).findings).toEqual([]);
  });
});

/** Nothing is nearer to being allocated twice than it was. */
function expectNotWorse(cut: CheckReport, before: CheckReport, what: string): void {
  // A block past the end that the old table names may be where a new one is being written.
  if (before.counts['refcount-block-past-end'] !== undefined) return;
  const tooLow = before.counts['refcount-too-low'] ?? 0;
  expect(cut.counts['refcount-too-low'] ?? 0, what).toBeLessThanOrEqual(tooLow);
  expect(cut.checkErrors, what).toBeLessThanOrEqual(before.checkErrors);
}

/** A file that remembers what was written between syncs. */
class LoggedFile extends MemoryFile {
  readonly writes: { readonly offset: number; readonly bytes: Uint8Array; sync: number }[] = [];
  readonly #first: Uint8Array;
  #syncs = 0;

  constructor(bytes: Uint8Array) {
    super(bytes.slice());
    this.#first = bytes;
  }

  override write(offset: number, bytes: Uint8Array): Promise<void> {
    this.writes.push({ offset, bytes: bytes.slice(), sync: this.#syncs });
    return super.write(offset, bytes);
  }

  override sync(): Promise<void> {
    this.#syncs++;
    return super.sync();
  }

  /** After `end` writes: what was synced is there, of the rest some sectors. */
  cutAt(end: number, random: Random): Uint8Array {
    const last = this.writes[end - 1]?.sync ?? 0;
    const sizes = this.writes.slice(0, end).map(({ offset, bytes }) => offset + bytes.length);
    const image = new Uint8Array(Math.max(this.#first.length, ...sizes));
    image.set(this.#first);
    for (const { offset, bytes, sync } of this.writes.slice(0, end)) {
      for (let at = 0; at < bytes.length; at += 512) {
        const isThere = sync < last || random.chance(0.5);
        if (isThere) image.set(bytes.subarray(at, at + 512), offset + at);
      }
    }
    return image;
  }
}

/** Each cluster as text; undefined where it cannot be read. */
function clustersOf({ kind, backing, data }: Made, bytes: Uint8Array): (string | undefined)[] {
  if (kind.encrypted || kind.name === 'zstd') return [];
  const { clusterBytes, sizeBytes } = headerOf(bytes);
  const clusters: (string | undefined)[] = [];
  for (let offset = 0; offset < sizeBytes; offset += clusterBytes) {
    try {
      const cluster = readGuest(bytes, backing, offset, clusterBytes, data);
      clusters.push(Buffer.from(cluster).toString('latin1'));
    } catch {
      clusters.push(undefined);
    }
  }
  return clusters;
}

function headerOf(bytes: Uint8Array): Qcow2Header {
  return parseHeader(bytes, 'IMAGE');
}

function tryHeaderOf(bytes: Uint8Array): Qcow2Header | undefined {
  try {
    return headerOf(bytes);
  } catch {
    return undefined;
  }
}

function qemuCheck({ folder, kind }: Made, bytes: Uint8Array): number | null {
  writeFileSync(join(folder, 'repaired'), bytes);
  const key = ['--object', 'secret,id=key,data=abc', '--image-opts'];
  const image = kind.encrypted
    ? [...key, 'driver=qcow2,file.filename=repaired,encrypt.key-secret=key']
    : ['-f', 'qcow2', 'repaired'];
  return spawnSync('qemu-img', ['check', ...image], { cwd: folder }).status;
}
