/** Systems whose open() knows neither O_DSYNC nor O_DIRECT, and where libc cannot be called. */

import type * as fileSystem from 'node:fs';
import { describe, expect, it, vi } from 'vitest';

import { openFileBackend } from '../../src/backend/file.ts';
import { Driver, expectSame, pattern } from './driver.ts';
import { scratchFile, scratchFolder } from './scratch.ts';

const calls = vi.hoisted((): string[] => []);
/** Errors of the next fdatasync calls. */
const failures = vi.hoisted((): Error[] => []);

vi.mock('node:fs', async (importOriginal) => {
  const fs = await importOriginal<typeof fileSystem>();
  const { O_DIRECT, O_DSYNC, ...constants } = fs.constants;
  const open = (
    path: string,
    flags: number,
    callback: (error: Error | null, fd: number) => void,
  ) => {
    calls.push(`open ${(flags & (O_DIRECT | O_DSYNC)) === 0 ? 'plainly' : 'with flags'}`);
    fs.open(path, flags, callback);
  };
  const fdatasync = (fd: number, callback: (error: Error | null) => void) => {
    calls.push('fdatasync');
    fs.fdatasync(fd, (error) => {
      calls.push('synced');
      callback(failures.shift() ?? error);
    });
  };
  return { ...fs, constants, open, fdatasync };
});

vi.stubEnv('SLUICE_NO_KOFFI', '1');
const folder = scratchFolder();

describe('without O_DSYNC and O_DIRECT', () => {
  it('a stable write is synced before it is answered', async () => {
    const path = scratchFile(folder);
    const backend = await openFileBackend(path, { writable: true, lock: 'none' });
    const driver = new Driver(backend);
    expect(await driver.write(0, pattern(4096))).toBe(0);
    expect(calls.splice(0)).toEqual(['open plainly']);
    expect(await driver.write(4096, pattern(4096), true)).toBe(0);
    expect(calls.splice(0)).toEqual(['fdatasync', 'synced']);
    expectSame(await driver.read(4096, 4096), pattern(4096));
    await backend.close();
  });

  it('a sync that failed for a stable write fails every sync after it', async () => {
    const backend = await openFileBackend(scratchFile(folder), { writable: true, lock: 'none' });
    const driver = new Driver(backend);
    failures.push(Object.assign(new Error('EIO: i/o error, fdatasync'), { errno: -5 }));
    expect(await driver.write(0, pattern(4096), true)).toBe(5);
    calls.length = 0;
    expect([await driver.sync(), await driver.sync()]).toEqual([5, 5]);
    expect(calls).toEqual([]);
    await backend.close();
  });

  it('direct mode is refused and not replaced by the page cache', async () => {
    const opened = openFileBackend(scratchFile(folder), { direct: true });
    await expect(opened).rejects.toMatchObject({ code: 'ERR_SLUICE_DIRECT_UNSUPPORTED' });
  });
});
