/** What QEMU says of an image. */

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

import type { DiskExtent } from '../../src/disk-types.ts';
import { DATA, IMAGE, type Kind, make, shapeOf } from './kinds.ts';
import { type Range, SparseBytes } from './shadow.ts';

/** An image that was made, with its contents as QEMU reads them. */
export interface Made {
  readonly kind: Kind;
  readonly folder: string;
  /** Its contents as a raw file, and where that has data. */
  readonly raw: string;
  readonly data: readonly Range[];
  /** Names and contents. */
  readonly snapshots: ReadonlyMap<string, string>;
  /** What shows where nothing is allocated. */
  readonly backing: SparseBytes | undefined;
}

/** An entry of `qemu-img map`. */
interface MapEntry {
  readonly start: number;
  readonly length: number;
  readonly data: boolean;
  readonly depth: number;
}

/** Makes an image in a folder of its own, and reads it by QEMU. */
export function makeWithContents(kind: Kind, folder: string): Made {
  make(kind, folder);
  const raw = `${folder}.raw`;
  qemuImg(folder, 'convert', '-O', 'raw', IMAGE, raw);
  const snapshots = new Map<string, string>();
  for (const name of kind.snapshots ?? []) {
    const path = `${folder}-${name}.raw`;
    convertSnapshot(folder, name, path);
    snapshots.set(name, path);
  }
  const layers = kind.chain?.length ?? 0;
  const backing = layers === 0 ? undefined : backingOf(kind, folder, `LAYER${layers - 1}`);
  return { kind, folder, raw, data: dataOf(folder, IMAGE), snapshots, backing };
}

function backingOf(kind: Kind, folder: string, name: string): SparseBytes {
  const format = kind.chain?.at(-1)?.options === undefined ? 'raw' : 'qcow2';
  const raw = `${folder}-backing.raw`;
  qemuImg(folder, 'convert', '-f', format, '-O', 'raw', name, raw);
  const bytes = new SparseBytes();
  bytes.load(raw, [{ offset: 0, length: kind.sizeBytes }]);
  return bytes;
}

function dataOf(folder: string, name: string): Range[] {
  return map(folder, name)
    .filter(({ data }) => data)
    .map(({ start, length }) => ({ offset: start, length }));
}

function map(folder: string, name: string): MapEntry[] {
  return JSON.parse(qemuImg(folder, 'map', '--output', 'json', '-f', 'qcow2', name)) as MapEntry[];
}

/** Runs qemu-img. @throws when it fails, with what it said */
export function qemuImg(folder: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync('qemu-img', args, { cwd: folder, encoding: 'utf8' });
  if (status === 0) return stdout;
  const said = `${stdout}${stderr}`.slice(0, 2000);
  throw new Error(`qemu-img ${args.join(' ')} ended with ${status}: ${said}`);
}

/** No corruption and no leak. */
export function check(folder: string): void {
  qemuImg(folder, 'check', '-q', '-f', 'qcow2', IMAGE);
}

/** QEMU reads what the shadow says; and in a raw data file it is there as it is. */
export function checkSame(folder: string, bytes: SparseBytes, { kind }: Made): void {
  bytes.save(join(folder, 'SHADOW'), kind.sizeBytes);
  qemuImg(folder, 'compare', '-q', '-f', 'qcow2', '-F', 'raw', IMAGE, 'SHADOW');
  if (shapeOf(kind).dataFile !== 'raw') return;
  qemuImg(folder, 'compare', '-q', '-f', 'raw', '-F', 'raw', DATA, 'SHADOW');
}

/** The snapshots are what they were. */
export function checkSnapshots(folder: string, snapshots: ReadonlyMap<string, string>): void {
  for (const [name, path] of snapshots) {
    convertSnapshot(folder, name, join(folder, 'SNAPSHOT'));
    qemuImg(folder, 'compare', '-q', '-f', 'raw', '-F', 'raw', path, 'SNAPSHOT');
  }
}

function convertSnapshot(folder: string, name: string, path: string): void {
  qemuImg(folder, 'convert', '-l', `snapshot.name=${name}`, '-O', 'raw', IMAGE, path);
}

/** Our extents and QEMU's say the same of what has no data. Data in a hole is both for QEMU. */
export function checkMap(folder: string, extents: readonly DiskExtent[]): void {
  const mapped = map(folder, IMAGE).filter(({ length }) => length > 0);
  const ours = extents.map(({ offset, length, kind, depth }) => {
    return run(offset, length, kind === 'data', depth);
  });
  const theirs = mapped.map(({ start, length, data, depth }) => run(start, length, data, depth));
  const [a, b] = [joined(ours), joined(theirs)];
  const at = b.findIndex((entry, index) => JSON.stringify(entry) !== JSON.stringify(a[index]));
  if (at < 0) return;
  throw new Error(`qemu-img maps ${JSON.stringify(b[at])}, we ${JSON.stringify(a[at])}`);
}

/** Whose data it is counts where there is some. */
function run(start: number, length: number, data: boolean, depth: number): MapEntry {
  return { start, length, data, depth: data ? depth : 0 };
}

/** Neighbours that say the same become one. */
function joined(entries: readonly MapEntry[]): MapEntry[] {
  const runs: MapEntry[] = [];
  for (const entry of entries) {
    const last = runs.at(-1);
    if (last === undefined || last.data !== entry.data || last.depth !== entry.depth) {
      runs.push(entry);
    } else runs[runs.length - 1] = { ...last, length: last.length + entry.length };
  }
  return runs;
}
