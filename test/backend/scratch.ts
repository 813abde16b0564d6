/** Files for the tests of backends: a temporary folder, and what its file system can do. */

import { closeSync, constants, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, vi } from 'vitest';

import {
  type FileBackend,
  type FileBackendOptions,
  openFileBackend,
} from '../../src/backend/file.ts';
import { Driver } from './driver.ts';

const MIB = 1024 * 1024;

/** A folder that is removed after the tests of the file. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-backend-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

let files = 0;

/** A new file with these bytes. */
export function scratchFile(folder: string, contents: Uint8Array = new Uint8Array(MIB)): string {
  const path = join(folder, `image-${files++}.raw`);
  writeFileSync(path, contents);
  return path;
}

/** O_DIRECT works for files in the folder. */
export function hasDirect(folder: string): boolean {
  const path = scratchFile(folder);
  try {
    closeSync(openSync(path, constants.O_RDONLY | constants.O_DIRECT));
    return true;
  } catch {
    return false;
  }
}

export const NO_DIRECT = 'the temporary folder has no O_DIRECT';

/** One of the ways to run the same tests. */
export interface Way {
  readonly direct: boolean;
  readonly koffi: boolean;
}

/** A suite for each of page cache and O_DIRECT, with and without koffi. */
export function describeWays(title: string, folder: string, body: (way: Way) => void): void {
  for (const direct of [false, true]) {
    for (const koffi of [true, false]) {
      const way = `${direct ? 'O_DIRECT' : 'page cache'}${koffi ? '' : ' without koffi'}`;
      if (!direct || hasDirect(folder)) describe(`${title}, ${way}`, () => body({ direct, koffi }));
      else
        describe(`${title}, ${way}`, { skip: true, meta: { skipReason: NO_DIRECT } }, () =>
          body({ direct, koffi }),
        );
    }
  }
}

/** Opens backends that are closed after each test; without koffi on request. */
export function backendOpener(): (
  path: string,
  options?: FileBackendOptions,
  koffi?: boolean,
) => Promise<{ backend: FileBackend; driver: Driver }> {
  const open: FileBackend[] = [];
  afterEach(async () => {
    vi.unstubAllEnvs();
    await Promise.all(open.splice(0).map((backend) => backend.close()));
  });
  return async (path, options = {}, koffi = true) => {
    vi.stubEnv('SLUICE_NO_KOFFI', koffi ? '' : '1');
    const withoutLock = koffi ? {} : ({ lock: 'none' } as const);
    const backend = await openFileBackend(path, { ...withoutLock, ...options });
    open.push(backend);
    return { backend, driver: new Driver(backend) };
  };
}
