import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { connect } from 'node:net';
import { promisify } from 'node:util';
import { describe, expect, it, vi } from 'vitest';

import { openFileBackend } from '../../src/backend/file.ts';
import { loadNative } from '../../src/backend/native.ts';
import { describeWithPeers } from '../support/peers.ts';
import { backendOpener, scratchFile, scratchFolder } from './scratch.ts';

const run = promisify(execFile);
const folder = scratchFolder();
const open = backendOpener();
const reason = 'koffi is not usable here';
const options = loadNative() === null ? { skip: true, meta: { skipReason: reason } } : {};

/** The code and message of an open that must fail. */
async function refusal(
  path: string,
  writable: boolean,
): Promise<{ code: string; message: string }> {
  const opened = await openFileBackend(path, { writable }).catch((error: unknown) => error);
  return opened as { code: string; message: string };
}

/** qemu-nbd has its locks when it greets: it listens before it opens the image. */
async function greeted(socket: string): Promise<void> {
  await vi.waitFor(
    async () => {
      const client = connect(socket);
      try {
        await once(client, 'data');
      } finally {
        client.destroy();
      }
    },
    { timeout: 10_000, interval: 20 },
  );
}

// fcntl(2) on Linux, and QEMU's bytes (block/file-posix.c): 100 + and 200 + permission.
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const USES_REWRITE = 102;
const USES_RESIZE = 103;
const KEEPS_REWRITE = 202;
const KEEPS_RESIZE = 203;

/** Locks one byte for the open file description; false when somebody else's lock is in the way. */
function setLock(fd: number, type: number, byte: number): boolean {
  const record = new BigInt64Array([BigInt(type), BigInt(byte), 1n, 0n]);
  const native = loadNative()!;
  return native.fcntl(fd, F_OFD_SETLK, native.addressOf(new Uint8Array(record.buffer))) === 0;
}

/** What a program says when it fails; empty when it does not. */
async function complaint(program: string, ...args: string[]): Promise<string> {
  const { stdout, stderr } = await run(program, args).catch((error: unknown) => {
    return error as { stdout: string; stderr: string };
  });
  return /lock/.test(stdout + stderr) ? stdout + stderr : '';
}

describe('a lock', options, () => {
  it('keeps a second writer out, in the same process too', async () => {
    const path = scratchFile(folder);
    const first = await open(path, { writable: true });
    const error = await refusal(path, true);
    expect(error.code).toBe('ERR_SLUICE_LOCKED');
    expect(error.message).toContain('has it open to write it');
    expect(error.message).toContain("lock: 'none'");
    await first.backend.close();
    await open(path, { writable: true });
  });

  it('keeps readers and a writer apart, and readers together', async () => {
    const path = scratchFile(folder);
    const reader = await open(path);
    const another = await open(path);
    expect((await refusal(path, true)).message).toContain('has it open and lets nobody else write');
    await reader.backend.close();
    await another.backend.close();
    await open(path, { writable: true });
    expect((await refusal(path, false)).code).toBe('ERR_SLUICE_LOCKED');
  });

  it('is not taken when the caller says so', async () => {
    const path = scratchFile(folder);
    await open(path, { writable: true });
    await open(path, { writable: true, lock: 'none' });
  });

  it('leaves nothing locked after a refusal', async () => {
    const path = scratchFile(folder);
    const reader = await open(path);
    await refusal(path, true);
    await reader.backend.close();
    const other = openSync(path, 'r');
    await open(path, { writable: true });
    closeSync(other);
  });
});

describe('a lock and a program that only resizes', options, () => {
  // None of QEMU's does: it resizes what it also writes. So this is one of ours, byte by byte.
  it('keeps everybody out while it may resize', async () => {
    const path = scratchFile(folder);
    const other = openSync(path, 'r+');
    expect(setLock(other, F_RDLCK, USES_RESIZE)).toBe(true);
    for (const writable of [true, false]) {
      const error = await refusal(path, writable);
      expect(error.code).toBe('ERR_SLUICE_LOCKED');
      expect(error.message).toContain('has it open to resize it');
    }
    closeSync(other);
    await open(path, { writable: true });
  });

  it.for([true, false])('tells it to keep out (writable: %s)', async (writable) => {
    const path = scratchFile(folder);
    const { backend } = await open(path, { writable });
    const other = openSync(path, 'r+');
    expect(setLock(other, F_WRLCK, KEEPS_RESIZE)).toBe(false);
    expect(setLock(other, F_WRLCK, USES_RESIZE)).toBe(true);
    await backend.close();
    expect(setLock(other, F_WRLCK, KEEPS_RESIZE)).toBe(true);
    closeSync(other);
  });

  it('lets it rewrite the same bytes', async () => {
    const path = scratchFile(folder);
    const other = openSync(path, 'r+');
    expect(setLock(other, F_RDLCK, USES_REWRITE)).toBe(true);
    await open(path, { writable: true });
    expect(setLock(other, F_WRLCK, KEEPS_REWRITE)).toBe(true);
    closeSync(other);
  });
});

describe('without koffi', () => {
  it('a writer must say that it does without a lock', async () => {
    vi.stubEnv('SLUICE_NO_KOFFI', '1');
    const error = await refusal(scratchFile(folder), true);
    vi.unstubAllEnvs();
    expect(error.code).toBe('ERR_SLUICE_LOCK_UNAVAILABLE');
    expect(error.message).toContain("install the optional package koffi, or pass lock: 'none'");
    await open(scratchFile(folder), { writable: true, lock: 'none' }, false);
  });

  it('a reader goes on without', async () => {
    const { driver } = await open(scratchFile(folder), { lock: 'auto' }, false);
    expect(await driver.read(0, 512)).toHaveLength(512);
  });
});

describeWithPeers(['qemu-io', 'qemu-img', 'qemu-nbd'], 'a lock and QEMU', () => {
  const canLock = loadNative() !== null;

  it('refuses to write what qemu-nbd exports', async (context) => {
    if (!canLock) context.skip(reason);
    const path = scratchFile(folder);
    const socket = `${path}.socket`;
    const server = spawn('qemu-nbd', ['-f', 'raw', '-t', '-k', socket, path], { stdio: 'ignore' });
    try {
      await greeted(socket);
      expect((await refusal(path, true)).code).toBe('ERR_SLUICE_LOCKED');
      expect((await refusal(path, false)).code).toBe('ERR_SLUICE_LOCKED');
    } finally {
      server.kill();
      await once(server, 'exit');
    }
    await open(path, { writable: true });
  });

  it('makes QEMU refuse to write what is open for writing here', async (context) => {
    if (!canLock) context.skip(reason);
    const path = scratchFile(folder);
    const { backend } = await open(path, { writable: true });
    const write = ['-f', 'raw', '-c', 'write 0 512', path];
    expect(await complaint('qemu-io', ...write)).toContain('Failed to get "write" lock');
    expect(await complaint('qemu-img', 'resize', '-f', 'raw', path, '2M')).toContain('lock');
    expect(await complaint('qemu-img', 'info', '-U', '-f', 'raw', path)).toBe('');
    await backend.close();
    expect(await complaint('qemu-io', ...write)).toBe('');
  });

  it('makes QEMU refuse to write what is being read here, and lets it read', async (context) => {
    if (!canLock) context.skip(reason);
    const path = scratchFile(folder);
    await open(path);
    const writing = await complaint('qemu-io', '-f', 'raw', '-c', 'write 0 512', path);
    expect(writing).toContain('Failed to get "write" lock');
    expect(await complaint('qemu-io', '-r', '-f', 'raw', '-c', 'read 0 512', path)).toBe('');
  });

  it('reads together with a QEMU that reads', async (context) => {
    if (!canLock) context.skip(reason);
    const path = scratchFile(folder);
    const socket = `${path}.socket`;
    const args = ['-r', '-f', 'raw', '-t', '-k', socket, path];
    const server = spawn('qemu-nbd', args, { stdio: 'ignore' });
    try {
      await greeted(socket);
      await open(path);
    } finally {
      // It misses a SIGTERM that comes while it starts.
      server.kill('SIGKILL');
      await once(server, 'exit');
    }
  });
});
