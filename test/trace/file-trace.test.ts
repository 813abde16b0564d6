import type * as fileSystem from 'node:fs';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import { FileTrace } from '../../src/trace/file-trace.ts';

/** Whether the file system has no space left. */
const full = vi.hoisted(() => ({ is: false }));

vi.mock('node:fs', async (importOriginal) => {
  const fs = await importOriginal<typeof fileSystem>();
  const writeSync = (fd: number, bytes: Uint8Array, offset: number): number => {
    if (full.is) throw Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC' });
    return fs.writeSync(fd, bytes, offset);
  };
  return { ...fs, writeSync };
});
afterEach(() => {
  full.is = false;
});

const folder = mkdtempSync(join(tmpdir(), 'sluice-trace-'));
afterAll(() => rmSync(folder, { recursive: true }));

function lines(path: string): Record<string, unknown>[] {
  return readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

describe('a trace', () => {
  it('has every request and its completion, in order, with what they say', async () => {
    const path = join(folder, 'a.jsonl');
    const backend = new MemoryBackend({ sizeBytes: 65_536 });
    const disk = new Disk(backend, { tracer: new FileTrace(path) });
    await disk.write(512, new Uint8Array(512), { fua: true });
    await disk.writeZeroes(0, 4096, { mayUnmap: true });
    await disk.setWce(false);
    backend.fail('read');
    await expect(disk.read(0, 512)).rejects.toThrow('EIO');
    await disk.close();
    const [head, ...rest] = lines(path).map(({ us: _us, ...line }) => line);
    expect(head).toEqual({ trace: 1, size: 65_536, blockSize: 1, readOnly: false });
    expect(rest).toEqual([
      { id: 1, op: 'write', offset: 512, length: 512, fua: true },
      { id: 1, status: 'ok' },
      { id: 2, op: 'writeZeroes', offset: 0, length: 4096, mayUnmap: true },
      { id: 2, status: 'ok' },
      { id: 3, op: 'setWce', on: false },
      { id: 3, status: 'ok' },
      { id: 4, op: 'read', offset: 0, length: 512 },
      { id: 4, status: 'io-error', errno: 5 },
      { id: 5, op: 'flush' },
      { id: 5, status: 'ok' },
    ]);
    const times = lines(path)
      .slice(1)
      .map(({ us }) => us as number);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
  });

  it('is written in chunks, whole, however long it is', async () => {
    const path = join(folder, 'long.jsonl');
    const disk = new Disk(new MemoryBackend({ sizeBytes: 65_536 }), {
      tracer: new FileTrace(path),
    });
    for (let i = 0; i < 2000; i++) await disk.read(0, 512);
    await disk.close();
    expect(lines(path)).toHaveLength(1 + 2 * 2001);
  });

  it('never overwrites what exists', () => {
    const path = join(folder, 'image');
    writeFileSync(path, 'precious');
    const create = () => new FileTrace(path);
    expect(create).toThrow(expect.objectContaining({ code: 'ERR_SLUICE_OPEN' }));
    expect(readFileSync(path, 'utf8')).toBe('precious');
    expect(() => new FileTrace('/dev/null')).toThrow('it exists');
  });

  it('that cannot be created or written is an error, and never of the disk', async () => {
    const create = () => new FileTrace(join(folder, 'none', 'x'));
    expect(create).toThrow(expect.objectContaining({ code: 'ERR_SLUICE_OPEN' }));
    const disk = new Disk(new MemoryBackend({ sizeBytes: 512 }), {
      tracer: new FileTrace(join(folder, 'full.jsonl')),
    });
    full.is = true;
    await disk.write(0, new Uint8Array(512));
    await disk.flush();
    await expect(disk.close()).rejects.toMatchObject({ code: 'ERR_SLUICE_IO' });
  });
});
