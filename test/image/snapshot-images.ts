/** Images whose snapshots are changed: by us, by qemu-img, and what they hold then. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';

import { type ImageFile, MemoryFile } from '../../src/image/image-file.ts';
import { readHeader } from '../../src/image/qcow2/header.ts';
import {
  applySnapshot,
  createSnapshot,
  deleteSnapshot,
} from '../../src/image/qcow2/snapshot-edit.ts';
import { readSnapshotTable, type Snapshot } from '../../src/image/qcow2/snapshot-table.ts';
import { qemu } from './bad-inputs/bases.ts';
import { KINDS, type Kind } from './check-images.ts';
import { qemuCheck } from './check-qemu.ts';

export const PATH = 'IMAGE';

/** What is done to snapshots, as qemu-img names it. */
export type Change = '-c' | '-a' | '-d';

const LARGE = ['write -P 1 0 6k', 'write -P 2 3M 9k', 'write -z 4M 2M'];

/** Kinds that can have snapshots: all but those with an external data file; and the largest. */
export const SNAPSHOT_KINDS: readonly Kind[] = [
  ...KINDS.filter(({ options }) => !options.includes('data_file')),
  { name: '2M', options: 'cluster_size=2M', size: '7M', writes: LARGE },
  { name: '2M extended', options: 'cluster_size=2M,extended_l2=on', size: '7M', writes: LARGE },
  { name: 'zlib, 2M', options: 'cluster_size=2M', size: '', compressedBytes: 5_000_192 },
];

/** True when another snapshot needs more than the refcounts of this kind can count. */
export function isShort({ options }: Kind): boolean {
  return /refcount_bits=[12]\b/.test(options);
}

/** Changes the snapshots of an image. */
export async function change(
  file: ImageFile,
  how: Change,
  name: string,
  isBlockDevice = false,
): Promise<Snapshot> {
  const header = await readHeader(file, PATH);
  if (how === '-c') return createSnapshot(file, header, PATH, { name, isBlockDevice });
  const work = how === '-a' ? applySnapshot : deleteSnapshot;
  return work(file, header, PATH, name, { isBlockDevice });
}

/** Changes the snapshots of the image in a folder. */
export async function changeIn(folder: string, how: Change, name: string): Promise<Snapshot> {
  const path = join(folder, PATH);
  const file = new MemoryFile(readFileSync(path));
  const snapshot = await change(file, how, name);
  writeFileSync(path, file.bytes);
  return snapshot;
}

/** The snapshots of an image in memory. */
export async function snapshotsOf(bytes: Uint8Array): Promise<readonly Snapshot[]> {
  const file = new MemoryFile(bytes);
  const { snapshots, problem } = await readSnapshotTable(file, await readHeader(file, PATH), PATH);
  expect(problem).toBeUndefined();
  return snapshots;
}

/** What qemu-img says of the snapshots of an image in a folder. */
export function qemuList(folder: string): Record<string, unknown>[] {
  const text = qemu(folder, 'qemu-img', ['info', '-U', '--output', 'json', PATH]);
  const { snapshots } = JSON.parse(text) as { snapshots?: Record<string, unknown>[] };
  return snapshots ?? [];
}

/** What a disk holds, or a snapshot of it, as qemu-img reads it. */
export function qemuContent(folder: string, snapshot?: string): Buffer {
  const from = snapshot === undefined ? [] : ['-l', `snapshot.name=${snapshot}`];
  qemu(folder, 'qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', ...from, PATH, 'CONTENT']);
  const bytes = readFileSync(join(folder, 'CONTENT'));
  rmSync(join(folder, 'CONTENT'));
  return bytes;
}

/** qemu-img finds nothing wrong, and nothing leaked. */
export async function expectQemuClean(folder: string, isEncrypted = false): Promise<void> {
  const { json, text } = await qemuCheck(folder, PATH, isEncrypted);
  expect({ corruptions: json?.corruptions ?? 0, leaks: json?.leaks ?? 0, text }).toEqual({
    corruptions: 0,
    leaks: 0,
    text: '',
  });
  expect(json?.['check-errors']).toBe(0);
}
