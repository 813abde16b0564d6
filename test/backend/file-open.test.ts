import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import process from 'node:process';
import { describe, expect, it } from 'vitest';

import { type FileBackendOptions, openFileBackend } from '../../src/backend/file.ts';
import { threadUring } from '../../src/backend/uring.ts';
import { ERROR_CODES, SluiceError } from '../../src/errors.ts';
import { backendOpener, hasDirect, NO_DIRECT, scratchFile, scratchFolder } from './scratch.ts';

const folder = scratchFolder();
const open = backendOpener();

/** The error of an open that must fail. */
async function refusal(path: string, options: FileBackendOptions = {}): Promise<SluiceError> {
  const opened: unknown = await openFileBackend(path, options).catch((error: unknown) => error);
  if (opened instanceof SluiceError) return opened;
  throw new Error('the open did not fail with a SluiceError', { cause: opened });
}

describe('an open is refused', () => {
  it('for a directory', async () => {
    const error = await refusal(folder);
    expect(error).toMatchObject({ code: 'ERR_SLUICE_NOT_A_DISK', operation: 'open', path: folder });
    expect(error.message).toContain('a directory');
  });

  it('for a FIFO, without hanging', async () => {
    const path = join(folder, 'fifo');
    execFileSync('mkfifo', [path]);
    for (const writable of [false, true]) {
      const error = await refusal(path, { writable });
      expect(error.code).toBe('ERR_SLUICE_NOT_A_DISK');
      expect(error.message).toContain('a FIFO');
    }
  });

  it('for a character device', async () => {
    expect((await refusal('/dev/null', { writable: true })).message).toContain(
      'a character device',
    );
  });

  it('for a socket', async () => {
    const path = join(folder, 'socket');
    const server = createServer().listen(path);
    await new Promise((resolve) => void server.once('listening', resolve));
    expect((await refusal(path)).message).toContain('a socket');
    server.close();
  });

  it('for a file that is not there, with the system error as its cause', async () => {
    const error = await refusal(join(folder, 'nothing'));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_OPEN', cause: { code: 'ENOENT' } });
    expect(error.message).toContain('create it first');
  });

  it('for a program that is running, when it is to be written', async () => {
    const path = join(folder, 'program');
    copyFileSync(process.execPath, path);
    const program = spawn(path, ['-e', 'process.stdin.resume()']);
    await once(program, 'spawn');
    const error = await refusal(path, { writable: true, lock: 'none' });
    expect(error).toMatchObject({ code: 'ERR_SLUICE_OPEN', cause: { code: 'ETXTBSY' } });
    expect(error.message).toContain('a program that is running');
    program.kill();
  });

  it('in direct mode for a size that is not a multiple of the block size', async (context) => {
    if (!hasDirect(folder)) context.skip(NO_DIRECT);
    const path = scratchFile(folder, new Uint8Array(10_000));
    const error = await refusal(path, { direct: true, writable: true });
    expect(error.code).toBe('ERR_SLUICE_ALIGNMENT');
    expect(error.message).toContain('10000');
    expect(error.message).toContain('truncate');
  });

  it('in direct mode on tmpfs, which has only a page cache', async (context) => {
    if (!existsSync('/dev/shm')) context.skip('there is no tmpfs at /dev/shm');
    const path = `/dev/shm/sluice-test-${process.pid}`;
    writeFileSync(path, new Uint8Array(4096));
    try {
      const error = await refusal(path, { direct: true });
      expect(error.code).toBe('ERR_SLUICE_DIRECT_UNSUPPORTED');
      expect(error.message).toContain('page-cache mode');
    } finally {
      rmSync(path);
    }
  });

  it('leaving no descriptor open', async (context) => {
    if (!existsSync('/proc/self/fd')) context.skip('there is no /proc');
    const odd = scratchFile(folder, new Uint8Array(1001));
    await refusal(folder);
    const before = readdirSync('/proc/self/fd').length;
    await refusal(odd, { direct: true, writable: true });
    await refusal(join(folder, 'nothing'), { writable: true });
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
  });
});

describe('a page-cache mode', () => {
  it('takes a file on tmpfs and reads it on the thread', async (context) => {
    if (!existsSync('/dev/shm')) context.skip('there is no tmpfs at /dev/shm');
    const path = `/dev/shm/sluice-test-page-${process.pid}`;
    writeFileSync(path, new Uint8Array(4096).fill(7));
    try {
      const { backend, driver } = await open(path, { writable: true });
      expect((await driver.read(0, 4096)).every((byte) => byte === 7)).toBe(true);
      expect(backend.counters.offThread).toBe(0);
    } finally {
      rmSync(path);
    }
  });

  it('takes an empty file', async () => {
    const { backend } = await open(scratchFile(folder, new Uint8Array(0)), { writable: true });
    expect(backend.sizeBytes).toBe(0);
  });
});

describe('direct mode', () => {
  it('knows its block size, and its depth by the way that transfers go', async (context) => {
    if (!hasDirect(folder)) context.skip(NO_DIRECT);
    const path = scratchFile(folder);
    const ring = threadUring();
    const withKoffi = await open(path, { direct: true });
    const without = await open(path, { direct: true }, false);
    expect([512, 4096]).toContain(withKoffi.backend.blockSizeBytes);
    expect(without.backend.blockSizeBytes).toBe(withKoffi.backend.blockSizeBytes);
    const threads = Number(process.env['UV_THREADPOOL_SIZE'] ?? 4);
    expect(withKoffi.backend.depth).toBe(ring === null ? 2 * threads : 64);
    const pooled = await open(path, { direct: true, aio: 'threads' });
    expect(pooled.backend.depth).toBe(2 * threads);
    const deeper = await open(path, { direct: true, depth: 32 });
    expect(deeper.backend.depth).toBe(32);
  });
});

describe('ERROR_CODES', () => {
  it('says in one line what each code means', () => {
    for (const [code, meaning] of Object.entries(ERROR_CODES)) {
      expect(code).toMatch(/^ERR_SLUICE_[A-Z_]+$/);
      expect(meaning).toMatch(/^[A-Z].*\.$/);
    }
  });

  it('belongs to errors that carry their place and their cause, and nothing else', () => {
    const cause = new Error('EIO');
    const place = { operation: 'read', offset: 4096, length: 512, path: 'disk.raw' };
    const error = new SluiceError('ERR_SLUICE_IO', 'cannot read', { ...place, cause });
    expect(error).toMatchObject({ name: 'SluiceError', code: 'ERR_SLUICE_IO', cause, ...place });
    expect(error).toBeInstanceOf(Error);
    expect(Object.keys(new SluiceError('ERR_SLUICE_CLOSED', 'x'))).toEqual(['name', 'code']);
    expect('cause' in new SluiceError('ERR_SLUICE_CLOSED', 'x')).toBe(false);
  });
});
