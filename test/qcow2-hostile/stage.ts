/** A folder with the base images, and a row of the table in it, opened as a disk. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';

import type { Disk } from '../../src/index.ts';
import { openDisk, type OpenOptions } from '../../src/node.ts';
import { MAP_CORRUPT } from '../../src/abi/map.ts';
import { basePath } from '../image/bad-inputs/bases.ts';
import { PokedImage } from '../image/bad-inputs/poked-image.ts';
import { BAD_INPUTS, type BadInput } from '../image/bad-inputs/rows.ts';
import type { Outcome } from './expected.ts';

const PATIENCE_MS = 5000;
/** A row takes less: the memory of a disk, and what it reads. */
const MEMORY_BYTES = 48 * 1024 * 1024;
const UNTOUCHED = 0xee;
const WRITTEN = 0xcd;
const CORRUPT = /failed: the image is corrupt: .* \(0x.*, met at 0x.*\); it takes no more writes/;
const DAMAGED = /failed: the host reported EIO, or the image is damaged there/;
const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1024, M: 1024 * 1024 };

/** The build of the engine that checks itself. */
export const DEBUG_ENGINE = new WebAssembly.Module(
  readFileSync(new URL('../../build/engine.debug.wasm', import.meta.url)),
);

/** The row of the table with this id. */
export function rowOf(id: string): BadInput {
  const found = BAD_INPUTS.find((input) => input.id === id);
  if (found === undefined) throw new Error(`there is no row ${id}`);
  return found;
}

/** Writes the image of a row; answers its path, and its bytes. */
export function makeRow(folder: string, row: BadInput): { path: string; before: Buffer } {
  const image = new PokedImage(readFileSync(basePath(folder, row.base)));
  row.poke(image);
  const path = join(folder, 'case.qcow2');
  writeFileSync(path, image.bytes);
  return { path, before: image.bytes };
}

/** Opens an image, with the files of its folder. */
export function open(path: string, options: OpenOptions = {}): Promise<Disk> {
  const folders = [join(path, '..')];
  const defaults = { format: 'qcow2', backing: { folders }, module: DEBUG_ENGINE } as const;
  return soon(openDisk(path, { ...defaults, ...options }));
}

/** Fails when there is no answer after 5 seconds. */
export async function soon<T>(work: Promise<T>): Promise<T> {
  const timer = new AbortController();
  const late = async (): Promise<never> => {
    await sleep(PATIENCE_MS, undefined, { signal: timer.signal });
    throw new Error(`no answer after ${PATIENCE_MS} ms`);
  };
  try {
    return await Promise.race([work, late()]);
  } finally {
    timer.abort();
  }
}

/** Fails when `work` leaves files open, or more memory than a disk needs. */
export async function bounded(work: () => Promise<void>): Promise<void> {
  const files = readdirSync('/proc/self/fd').length;
  const { rss } = process.memoryUsage();
  await work();
  expect(process.memoryUsage().rss - rss).toBeLessThan(MEMORY_BYTES);
  expect(readdirSync('/proc/self/fd').length).toBe(files);
}

/** True when the engine has found damage for which it refuses writes. */
export function isCorrupt(disk: Disk): boolean {
  return disk.device.engine.loadMap(MAP_CORRUPT) !== 0;
}

/** Runs a command in the words of qemu-io, and compares how it ends. */
export async function runStep(disk: Disk, command: string, outcome: Outcome): Promise<void> {
  const [, op, pattern, offset, length] =
    /^(read|write)(?: -P (\S+))? (\S+) (\S+)$/.exec(command) ?? [];
  const [start, bytes] = [toBytes(offset ?? ''), toBytes(length ?? '')];
  const work = op === 'read' ? read(disk, start, bytes, outcome) : write();
  if (outcome === 'EIO') await expectEio(disk, work);
  else if (outcome !== 'out of range') await work;
  else await expect(work).rejects.toMatchObject({ code: 'ERR_SLUICE_OUT_OF_RANGE' });

  function write(): Promise<void> {
    const value = pattern === undefined ? WRITTEN : Number(pattern);
    return soon(disk.write(start, new Uint8Array(bytes).fill(value)));
  }
}

/** Nothing of what could not be read comes through. */
async function read(disk: Disk, offset: number, length: number, outcome: Outcome): Promise<void> {
  const into = Buffer.alloc(length, UNTOUCHED);
  try {
    await soon(disk.read(offset, into));
  } finally {
    const value = typeof outcome === 'number' ? outcome : UNTOUCHED;
    expect(into.equals(Buffer.alloc(length, value)), `${into[0]} and so on`).toBe(true);
  }
}

/** Of a request: what the engine has found, or else what the host or a damaged place would be. */
export async function expectEio(disk: Disk, work: Promise<void>): Promise<void> {
  const error = await soon(work).then(
    () => expect.unreachable('it succeeded'),
    (cause: unknown) => cause as Error,
  );
  expect(error).toMatchObject({ name: 'SluiceError', cause: { code: 'EIO' } });
  expect(error).toHaveProperty('code', isCorrupt(disk) ? 'ERR_SLUICE_CORRUPT' : 'ERR_SLUICE_IO');
  expect(error.message).toMatch(isCorrupt(disk) ? CORRUPT : DAMAGED);
}

function toBytes(text: string): number {
  const [, number = '', unit = ''] = /^(\d+)([kM]?)$/.exec(text) ?? [];
  return Number(number) * (UNITS[unit] ?? Number.NaN);
}
