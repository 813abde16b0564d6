/** Systems whose open() knows neither O_DSYNC nor O_DIRECT, and where libc cannot be called. */

import type * as fileSystem from 'node:fs';
import { describe, expect, it, vi } from 'vitest';

import { ERRNO_ENOTSUP } from '../../src/abi/command.ts';
import { openFileBackend } from '../../src/backend/file.ts';
import { openDisk } from '../../src/node.ts';
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
  it('no write is stable by itself: the backend says so and refuses to pretend', async () => {
    const backend = await openFileBackend(scratchFile(folder), { writable: true, lock: 'none' });
    const driver = new Driver(backend);
    expect(backend.fua).toBe(false);
    expect(await driver.write(0, pattern(4096), true)).toBe(ERRNO_ENOTSUP);
    expect(calls.splice(0)).toEqual(['open plainly']);
    await backend.close();
  });

  it('a disk writes and syncs instead, also with the write cache off (durability 2)', async () => {
    const path = scratchFile(folder);
    await using disk = await openDisk(path, { format: 'raw', writable: true, lock: 'none' });
    calls.length = 0;
    await disk.write(0, pattern(4096));
    expect(calls).toEqual([]);
    await disk.write(4096, pattern(4096), { fua: true });
    expect(calls.splice(0)).toEqual(['fdatasync', 'synced']);
    await disk.setWce(false);
    await disk.write(8192, pattern(4096));
    expect(calls.splice(0)).toEqual(['fdatasync', 'synced']);
    expectSame(await disk.read(8192, 4096), pattern(4096));
  });

  it('the sync of a stable write that failed is latched (durability 6)', async () => {
    const disk = await openDisk(scratchFile(folder), {
      format: 'raw',
      writable: true,
      lock: 'none',
    });
    failures.push(Object.assign(new Error('EIO: i/o error, fdatasync'), { errno: -5 }));
    const lost = disk.write(0, pattern(4096), { fua: true });
    await expect(lost).rejects.toMatchObject({ code: 'ERR_SLUICE_IO' });
    calls.length = 0;
    await expect(disk.flush()).rejects.toMatchObject({ code: 'ERR_SLUICE_FLUSH_LATCHED' });
    const again = disk.write(0, pattern(4096), { fua: true });
    await expect(again).rejects.toMatchObject({ code: 'ERR_SLUICE_FLUSH_LATCHED' });
    expect(calls).toEqual([]);
    await expect(disk.close()).rejects.toMatchObject({ code: 'ERR_SLUICE_FLUSH_LATCHED' });
  });

  it('direct mode is refused and not replaced by the page cache', async () => {
    const opened = openFileBackend(scratchFile(folder), { direct: true });
    await expect(opened).rejects.toMatchObject({ code: 'ERR_SLUICE_DIRECT_UNSUPPORTED' });
  });
});
