// The judge of images after power cuts: commands in an order that is right pass, each wrong order
// is found. The commands are written by hand; there is no engine here.

import { describe, expect, it } from 'vitest';

import {
  OP_DISCARD,
  OP_FLUSH,
  OP_WRITE,
  OP_WRITE_ZEROES,
  STATUS_OK,
} from '../../src/abi/request.ts';
import { parseHeader, type Qcow2Header } from '../../src/image/qcow2/header.ts';
import { Oracle } from '../../src/testing/oracle.ts';
import { fillSectors } from '../../src/testing/qcow2/guest-sectors.ts';
import {
  buildImage,
  type BuiltImage,
  type ImageShape,
} from '../../src/testing/qcow2/image-builder.ts';
import { ImageJudge } from '../../src/testing/qcow2/image-judge.ts';
import { RuleBroken } from '../../src/testing/rule-broken.ts';
import { SimulatedDisk } from '../../src/testing/simulated-disk.ts';
import { Driver } from '../backend/driver.ts';

const CLUSTER = 512;
const COPIED = 1n << 63n;
/** Two clusters of data, two that are not there; four free clusters at the end. */
const SHAPE: ImageShape = { name: 'image', clusters: 'dd..', freeClusters: 4 };

/** Plays an engine: what a flush or a table is, it knows from the test. */
class Hand {
  readonly disk: SimulatedDisk;
  readonly data: SimulatedDisk | undefined;
  readonly header: Qcow2Header;
  /** Offset of the first free cluster. */
  readonly free: number;
  readonly oracle: Oracle;
  states = 0;
  readonly #judge: ImageJudge;
  readonly #image: Driver;
  readonly #dataFile: Driver | undefined;

  constructor(built: BuiltImage, freeClusters: number) {
    const { image, data, codes } = built;
    const shape = { clock: 'manual', seed: 1 } as const;
    const sizes = { sizeBytes: image.length, mostBytes: 2 * image.length };
    this.disk = new SimulatedDisk({ ...shape, ...sizes, contents: image });
    this.#image = new Driver(this.disk);
    if (data !== undefined) {
      this.data = new SimulatedDisk({ ...shape, sizeBytes: data.length, contents: data });
      this.#dataFile = new Driver(this.data);
    }
    this.header = parseHeader(image, 'image');
    this.free = image.length - freeClusters * CLUSTER;
    const zeroAtFirst = (sector: number): boolean => codes[sector] === 0;
    this.oracle = new Oracle({ sectors: codes.length, wce: true, zeroAtFirst });
    this.#judge = new ImageJudge(built);
    this.look();
  }

  /** A request comes in. */
  submit(op: number, from = 0, to = from): number {
    return this.oracle.submit({ op, flags: 0, queue: 0, from, to });
  }

  complete(number: number): void {
    this.oracle.complete(number, STATUS_OK);
    this.look();
  }

  /** A command, whose power may be cut before and after its answer. */
  write(offset: number, bytes: Uint8Array): void {
    this.#run(this.disk, () => void this.#image.write(offset, bytes));
  }

  writeData(offset: number, bytes: Uint8Array): void {
    if (this.data !== undefined) {
      this.#run(this.data, () => void this.#dataFile?.write(offset, bytes));
    }
  }

  sync(): void {
    this.#run(this.disk, () => void this.#image.sync());
  }

  syncData(): void {
    if (this.data !== undefined) this.#run(this.data, () => void this.#dataFile?.sync());
  }

  extend(sizeBytes: number): void {
    this.#run(this.disk, () => void this.#image.extend(sizeBytes));
  }

  /** Writes the sector in which an entry of 64 bits changes. */
  setEntry(offset: number, value: bigint): void {
    const start = offset - (offset % CLUSTER);
    const sector = this.disk.contents().slice(start, start + CLUSTER);
    new DataView(sector.buffer).setBigUint64(offset - start, value);
    this.write(start, sector);
  }

  setL2(cluster: number, value: bigint): void {
    this.setEntry(this.l2 + 8 * cluster, value);
  }

  /** Where the data of a cluster lies. */
  placeOf(cluster: number): number {
    const view = new DataView(this.disk.contents().buffer);
    return Number(view.getBigUint64(this.l2 + 8 * cluster) & ~COPIED);
  }

  /** The only L2 table. */
  get l2(): number {
    const view = new DataView(this.disk.contents().buffer);
    return Number(view.getBigUint64(this.header.l1Offset) & 0xff_ffff_ffff_fe00n);
  }

  setRefcount(offset: number, count: number): void {
    const contents = this.disk.contents();
    const block = Number(new DataView(contents.buffer).getBigUint64(CLUSTER));
    const sector = contents.slice(block, block + CLUSTER);
    new DataView(sector.buffer).setUint16((offset / CLUSTER) * 2, count);
    this.write(block, sector);
  }

  look(): void {
    this.states += this.#judge.look({ image: this.disk, data: this.data }, 64, (codes) => {
      this.oracle.checkCut((sector, found) => {
        found[0] = this.#judge.valueOf(codes[sector] ?? 0, sector);
        return 1;
      });
    });
  }

  #run(disk: SimulatedDisk, start: () => void): void {
    start();
    this.look();
    disk.run();
    this.look();
  }
}

async function hand(shape = SHAPE): Promise<Hand> {
  return new Hand(await buildImage(shape), shape.freeClusters ?? 0);
}

/** What a write with this number puts into a sector. */
function written(number: number, sector: number): Uint8Array {
  const bytes = new Uint8Array(CLUSTER);
  fillSectors(bytes, number, sector);
  return bytes;
}

const entry = (offset: number): bigint => COPIED | BigInt(offset);

/** The rule that a story breaks. */
function brokenBy(story: () => void): string | undefined {
  try {
    story();
    return undefined;
  } catch (error) {
    if (error instanceof RuleBroken) return error.rule;
    throw error;
  }
}

describe('an order of commands that is right', () => {
  it('passes: a new cluster from the free ones, then a flush', async () => {
    const h = await hand();
    const number = h.submit(OP_WRITE, 2, 3);
    h.setRefcount(h.free, 1);
    h.write(h.free, written(number, 2));
    h.sync();
    h.setL2(2, entry(h.free));
    h.complete(number);
    const flush = h.submit(OP_FLUSH);
    h.sync();
    h.complete(flush);
    expect(h.states).toBeGreaterThan(20);
  });

  it('passes: a new cluster behind the end of the file, data and entry in one sync', async () => {
    const h = await hand();
    const at = h.disk.sizeBytes;
    h.extend(at + CLUSTER);
    h.setRefcount(at, 1);
    h.sync();
    const number = h.submit(OP_WRITE, 3, 4);
    h.setL2(3, entry(at));
    h.write(at, written(number, 3));
    h.complete(number);
    const flush = h.submit(OP_FLUSH);
    h.sync();
    h.complete(flush);
  });

  it('passes: a cluster that becomes zeroes, and its place free', async () => {
    const h = await hand();
    const number = h.submit(OP_WRITE_ZEROES, 1, 2);
    const old = h.placeOf(1);
    h.setL2(1, 1n);
    h.complete(number);
    h.sync();
    h.setRefcount(old, 0);
    h.sync();
  });

  it('passes: the same cluster written again and again, with and without a flush', async () => {
    const h = await hand();
    const at = h.placeOf(0);
    for (let turn = 0; turn < 5; turn++) {
      const number = h.submit(OP_WRITE, 0, 1);
      h.write(at, written(number, 0));
      h.complete(number);
      if (turn % 2 === 0) continue;
      const flush = h.submit(OP_FLUSH);
      h.sync();
      h.complete(flush);
    }
  });
});

describe('an order of commands that is wrong', () => {
  it('is found: an entry that may be stable before the refcount', async () => {
    const h = await hand();
    h.write(h.free, new Uint8Array(CLUSTER));
    h.setRefcount(h.free, 1);
    expect(brokenBy(() => h.setL2(2, entry(h.free)))).toBe('check');
  });

  it('is found: an entry that may be stable before the data of a free cluster', async () => {
    const h = await hand();
    h.setRefcount(h.free, 1);
    h.sync();
    const number = h.submit(OP_WRITE, 2, 3);
    h.write(h.free, written(number, 2));
    expect(brokenBy(() => h.setL2(2, entry(h.free)))).toBe('stale');
  });

  it('is found: a refcount that may be dropped before the entry is gone', async () => {
    const h = await hand();
    h.submit(OP_WRITE_ZEROES, 1, 2);
    const old = h.placeOf(1);
    h.setL2(1, 1n);
    expect(brokenBy(() => h.setRefcount(old, 0))).toBe('check');
  });

  it('is found: a file that may be too short for an entry', async () => {
    const h = await hand();
    const at = h.disk.sizeBytes;
    h.setRefcount(at, 1);
    h.sync();
    h.extend(at + CLUSTER);
    const number = h.submit(OP_WRITE, 3, 4);
    h.write(at, written(number, 3));
    expect(brokenBy(() => h.setL2(3, entry(at)))).toBe('check');
  });

  it('is found: a copy that may be missing when the entry is stable', async () => {
    const h = await hand();
    const at = h.disk.sizeBytes;
    h.extend(at + CLUSTER);
    h.setRefcount(at, 1);
    h.sync();
    h.submit(OP_WRITE, 0, 1);
    // The cluster moves: what was there at first was stable.
    const before = h.disk.contents().slice(at, at + CLUSTER);
    expect(brokenBy(() => h.setL2(0, entry(at)))).toBe('durability');
    expect(before.every((byte) => byte === 0)).toBe(true);
  });

  it('is found: an L2 table that may not be there when the L1 entry is', async () => {
    const h = await hand();
    h.setRefcount(h.free, 1);
    h.sync();
    const table = h.disk.contents().slice(h.l2, h.l2 + CLUSTER);
    h.write(h.free, table);
    expect(brokenBy(() => h.setEntry(h.header.l1Offset, entry(h.free)))).toBe('check');
  });

  it('is found: a refcount table that may not be there when the header names it', async () => {
    const h = await hand();
    h.setRefcount(h.free, 1);
    h.sync();
    h.write(h.free, h.disk.contents().slice(CLUSTER, 2 * CLUSTER));
    expect(brokenBy(() => h.setEntry(48, BigInt(h.free)))).toMatch(/check|header/);
  });

  it('is found: a header that says dirty or corrupt', async () => {
    for (const bit of [1n, 2n]) {
      const h = await hand();
      expect(brokenBy(() => h.setEntry(72, bit))).toBe('header');
    }
  });

  it('is found: a flush that ends before what it covers is stable', async () => {
    const h = await hand();
    const at = h.placeOf(0);
    const number = h.submit(OP_WRITE, 0, 1);
    h.write(at, written(number, 0));
    h.complete(number);
    const flush = h.submit(OP_FLUSH);
    expect(brokenBy(() => h.complete(flush))).toBe('durability');
  });

  it('is found: a flush that leaves an entry behind', async () => {
    const h = await hand();
    h.setRefcount(h.free, 1);
    h.sync();
    const number = h.submit(OP_WRITE, 2, 3);
    h.write(h.free, written(number, 2));
    h.sync();
    h.complete(number);
    const flush = h.submit(OP_FLUSH);
    expect(brokenBy(() => h.complete(flush))).toBe('durability');
  });

  it('is found: two clusters of the disk in one place', async () => {
    const h = await hand();
    const number = h.submit(OP_WRITE, 0, 1);
    const other = h.placeOf(1);
    expect(brokenBy(() => h.write(other, written(number, 0)))).toBe('stale');
  });

  it('is found: bytes that nobody wrote, unless they were discarded', async () => {
    const h = await hand();
    const at = h.placeOf(0);
    h.submit(OP_DISCARD, 0, 1);
    const garbage = new Uint8Array(CLUSTER).fill(0x77);
    expect(brokenBy(() => h.write(at, garbage))).toBeUndefined();
    expect(brokenBy(() => h.write(h.placeOf(1), garbage))).toBe('durability');
  });

  it('is found: an entry that may be stable before the data file', async () => {
    const h = await hand({ name: 'image', clusters: 'dzp.', dataFile: 'plain' });
    const number = h.submit(OP_WRITE, 0, 2);
    h.writeData(0, written(number, 0));
    h.writeData(CLUSTER, written(number, 1));
    expect(brokenBy(() => h.setL2(1, entry(CLUSTER)))).toBeUndefined();
    h.complete(number);
    const flush = h.submit(OP_FLUSH);
    h.sync();
    expect(brokenBy(() => h.complete(flush))).toBe('durability');
  });
});
