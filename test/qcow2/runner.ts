/** Runs a stream on an image: answers are compared with a shadow, the image with QEMU's view. */

import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import type { DiskExtent } from '../../src/disk-types.ts';
import type { Disk } from '../../src/index.ts';
import { openDisk } from '../../src/node.ts';
import { IMAGE, qemuIo, shapeOf } from './kinds.ts';
import { check, checkMap, checkSnapshots, checkSame, type Made, qemuImg } from './oracle.ts';
import { ANYTHING, OR_ZERO, type Range, Shadow, wrongIn } from './shadow.ts';
import type { Foreign, Setup, Step, Stream } from './stream.ts';

const PATIENCE_MS = 10_000;

/** What went wrong, and at which step it was asked for. */
export class Failure extends Error {
  readonly step: number;

  constructor(step: number, message: string) {
    super(message);
    this.step = step;
  }
}

/** Runs a stream on a copy of an image. @throws Failure */
export async function run(made: Made, stream: Stream, module: WebAssembly.Module): Promise<void> {
  const folder = `${made.folder}-run`;
  rmSync(folder, { recursive: true, force: true });
  execFileSync('cp', ['-r', '--sparse=always', made.folder, folder]);
  const runner = new Runner(made, folder, stream.setup, module);
  await runner.open();
  for (const [index, step] of stream.steps.entries()) await runner.step(index, step);
  await runner.finish(stream.steps.length);
  rmSync(folder, { recursive: true, force: true });
}

/** A step that is a request. */
type Asked = Extract<
  Step,
  { do: 'write' | 'zeroes' | 'discard' | 'read' | 'status' | 'flush' | 'cache' }
>;

class Runner {
  readonly #made: Made;
  readonly #folder: string;
  readonly #setup: Setup;
  readonly #module: WebAssembly.Module;
  readonly #shadow = new Shadow();
  readonly #touched: Range[] = [];
  /** Clusters that do not show the backing file, as far as that is sure. */
  readonly #allocated = new Set<number>();
  readonly #snapshots: Map<string, string>;
  #open: Disk | undefined;
  readonly #pending: Promise<void>[] = [];
  readonly #failures: Failure[] = [];
  #index = 0;

  constructor(made: Made, folder: string, setup: Setup, module: WebAssembly.Module) {
    this.#made = made;
    this.#folder = folder;
    this.#setup = setup;
    this.#module = module;
    this.#snapshots = new Map(made.snapshots);
    this.#shadow.bytes.load(made.raw, made.data);
  }

  async open(writable = true): Promise<void> {
    const { discard, ...setup } = this.#setup;
    const depth = this.#setup.depth === undefined ? {} : { depth: this.#setup.depth };
    this.#open = await this.#soon(
      openDisk(join(this.#folder, IMAGE), {
        ...setup,
        ...depth,
        discard,
        format: 'qcow2',
        writable,
        backing: { folders: [this.#folder] },
        module: this.#module,
      }),
      'open',
    );
  }

  /** Begins a step, or does it. */
  async step(index: number, step: Step): Promise<void> {
    this.#index = index;
    switch (step.do) {
      case 'turn':
        await new Promise(setImmediate);
        return;
      case 'settle':
        return this.#settle();
      case 'fast':
        return this.#fast(step);
      case 'reopen':
        await this.#closeInFlight();
        return this.open();
      case 'qemu':
        await this.#close();
        for (const deed of step.deeds) this.#foreign(deed);
        return this.open();
      case 'snapshot':
      case 'forget':
        await this.#close();
        this.#snapshot(step.do, step.name);
        return this.open();
      default:
        this.#ask(index, step);
    }
  }

  /** Closes the image, and compares it with what QEMU sees in it. */
  async finish(index: number): Promise<void> {
    this.#index = index;
    await this.#close();
    this.#judge(() => checkSame(this.#folder, this.#shadow.bytes, this.#made));
    this.#judge(() => checkSnapshots(this.#folder, this.#snapshots));
    await this.open(false);
    const { size } = this.#disk;
    const extents: DiskExtent[] = [];
    for await (const extent of this.#disk.blockStatus(0, size)) extents.push(extent);
    await this.#soon(this.#disk.close(), 'close');
    this.#judge(() => checkMap(this.#folder, extents));
  }

  get #disk(): Disk {
    if (this.#open === undefined) throw new Error('the disk is closed');
    return this.#open;
  }

  /** Requests begin here, and the shadow changes with them: they take effect in this order. */
  #ask(index: number, step: Asked): void {
    const disk = this.#disk;
    if (step.do === 'flush') return this.#pend(index, disk.flush());
    if (step.do === 'cache') return this.#pend(index, disk.setWce(step.on));
    const { offset, length } = step;
    this.#touched.push({ offset, length });
    switch (step.do) {
      case 'read':
        return this.#read(index, offset, length);
      case 'status':
        return this.#status(index, offset, length);
      case 'write': {
        const bytes = pattern(step.value, offset, length);
        this.#write(offset, bytes);
        const { fua, barrier } = step;
        return this.#pend(index, disk.write(offset, bytes, { fua, barrier }));
      }
      case 'zeroes': {
        const { mayUnmap, fua, barrier } = step;
        this.#shadow.zero(offset, length);
        return this.#pend(index, disk.writeZeroes(offset, length, { mayUnmap, fua, barrier }));
      }
      default:
        this.#discarded(offset, length);
        return this.#pend(index, disk.discard(offset, length));
    }
  }

  #read(index: number, offset: number, length: number): void {
    const expected = this.#shadow.expect(offset, length);
    const read = async (): Promise<void> => {
      const wrong = wrongIn(await this.#disk.read(offset, length), expected);
      if (wrong !== undefined) throw new Error(wrong);
    };
    this.#pend(index, read());
  }

  /** Only the first extent is sure to have been found out before any later request. */
  #status(index: number, offset: number, length: number): void {
    const expected = this.#shadow.expect(offset, length);
    const ask = async (): Promise<void> => {
      const { value } = await this.#disk.blockStatus(offset, length).next();
      if (value === undefined) {
        if (length > 0) throw new Error('no extent');
        return;
      }
      if (value.offset !== offset || value.length <= 0 || value.length > length) {
        throw new Error(`a wrong extent: ${JSON.stringify(value)}`);
      }
      if (value.kind === 'data') return;
      const part = { ...expected, bytes: expected.bytes.subarray(0, value.length) };
      const wrong = wrongIn(new Uint8Array(value.length), part);
      if (wrong !== undefined) throw new Error(`${value.kind} is not zero: ${wrong}`);
    };
    this.#pend(index, ask());
  }

  /**
   * A whole cluster reads as zeroes, or shows the backing file where it was not allocated; what is
   * not whole may stay as it is.
   */
  #discarded(offset: number, length: number): void {
    const { clusterBytes, version, dataFile } = shapeOf(this.#made.kind);
    const { backing } = this.#made;
    const isOld = version === 2;
    this.#shadow.doubt(offset, length, isOld && backing !== undefined ? ANYTHING : OR_ZERO);
    if (isOld || dataFile === 'raw') return;
    const first = Math.ceil(offset / clusterBytes);
    const end = Math.floor((offset + length) / clusterBytes);
    for (let cluster = first; cluster < end; cluster++) {
      const start = cluster * clusterBytes;
      this.#shadow.zero(start, clusterBytes);
      if (backing === undefined || this.#allocated.has(cluster)) continue;
      this.#shadow.write(start, backing.read(start, clusterBytes));
      this.#shadow.doubt(start, clusterBytes, OR_ZERO);
    }
  }

  #write(offset: number, bytes: Uint8Array): void {
    this.#shadow.write(offset, bytes);
    const { clusterBytes } = shapeOf(this.#made.kind);
    const first = Math.floor(offset / clusterBytes);
    for (let cluster = first; cluster * clusterBytes < offset + bytes.length; cluster++) {
      this.#allocated.add(cluster);
    }
  }

  #pend(index: number, work: Promise<unknown>): void {
    const settled = work.then(
      () => undefined,
      (error: unknown) => void this.#failures.push(new Failure(index, String(error))),
    );
    this.#pending.push(settled);
  }

  async #answers(): Promise<void> {
    await this.#soon(Promise.all(this.#pending.splice(0)), 'requests');
    const [first] = this.#failures.toSorted((a, b) => a.step - b.step);
    if (first !== undefined) throw first;
  }

  async #settle(): Promise<void> {
    await this.#answers();
    for (const { offset, length } of this.#shadow.takeDoubtful()) {
      const expected = this.#shadow.expect(offset, length);
      const found = await this.#soon(this.#disk.read(offset, length), 'read');
      const wrong = wrongIn(found, expected);
      if (wrong !== undefined) throw new Failure(this.#index, `after a discard: ${wrong}`);
      this.#shadow.write(offset, found);
    }
  }

  async #fast({ offset, length }: Range): Promise<void> {
    await this.#settle();
    try {
      await this.#soon(this.#disk.writeZeroes(offset, length, { fast: true }), 'fast zeroes');
      this.#shadow.zero(offset, length);
    } catch (error) {
      if (!String(error).includes('ask without fast')) throw error;
      // Some of it may have been fast.
      this.#shadow.doubt(offset, length, OR_ZERO);
    }
    this.#touched.push({ offset, length });
  }

  async #closeInFlight(): Promise<void> {
    await this.#soon(this.#disk.close(), 'close');
    await this.#answers();
    this.#judge(() => check(this.#folder));
  }

  async #close(): Promise<void> {
    await this.#settle();
    for (const { offset, length } of this.#touched.splice(0))
      this.#read(this.#index, offset, length);
    await this.#settle();
    await this.#soon(this.#disk.close(), 'close');
    this.#open = undefined;
    this.#judge(() => check(this.#folder));
  }

  #foreign({ op, offset, length, value }: Foreign): void {
    if (length === 0) return;
    const flags = { write: '', compressed: '-c', zero: '-z', unmap: '-z -u' }[op];
    const isZero = op === 'zero' || op === 'unmap';
    const fill = isZero ? '' : `-P ${value}`;
    try {
      qemuIo(this.#folder, [`write ${flags} ${fill} ${offset} ${length}`]);
    } catch (error) {
      // QEMU compresses nothing into a place that has data.
      if (op === 'compressed' && String(error).includes('Input/output error')) return;
      throw new Failure(this.#index, String(error));
    }
    if (isZero) this.#shadow.zero(offset, length);
    else this.#write(offset, new Uint8Array(length).fill(value));
  }

  #snapshot(act: 'snapshot' | 'forget', name: string): void {
    const flag = act === 'snapshot' ? '-c' : '-d';
    if (act === 'forget' && !this.#snapshots.delete(name)) return;
    this.#judge(() => qemuImg(this.#folder, 'snapshot', flag, name, IMAGE));
    if (act === 'forget') return;
    const raw = join(this.#folder, `snapshot-${name}.raw`);
    this.#shadow.bytes.save(raw, this.#made.kind.sizeBytes);
    this.#snapshots.set(name, raw);
  }

  #judge(work: () => void): void {
    try {
      work();
    } catch (error) {
      throw new Failure(this.#index, error instanceof Error ? error.message : String(error));
    }
  }

  async #soon<T>(work: Promise<T>, what: string): Promise<T> {
    const timer = new AbortController();
    const late = sleep(PATIENCE_MS, undefined, { signal: timer.signal }).then(() => {
      throw new Failure(this.#index, `${what}: no answer after ${PATIENCE_MS} ms`);
    });
    try {
      return await Promise.race([work, late]);
    } catch (error) {
      throw error instanceof Failure
        ? error
        : new Failure(this.#index, `${what}: ${String(error)}`);
    } finally {
      late.catch(() => undefined);
      timer.abort();
    }
  }
}

/** Bytes that say which write they are of, and where they belong. */
function pattern(value: number, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0, place = offset; at < length; at++, place++) {
    bytes[at] = value * 167 + (place >>> 0) * 31 + Math.floor(place / 512) * 7 + 1;
  }
  return bytes;
}
