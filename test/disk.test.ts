// The library's disk over a memory backend: promises, order, aborts, errors, closing.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { MemoryBackend, type MemoryBackendOptions } from '../src/backend/memory.ts';
import { CACHE_MODES, type CacheModeName } from '../src/cache-mode.ts';
import { Disk } from '../src/disk.ts';
import type { DiskOptions } from '../src/disk-types.ts';

const MIB = 1 << 20;
const EIO = 5;
const ENOSPC = 28;
const module = new WebAssembly.Module(readFileSync('build/engine.debug.wasm'));

function setUp(options: DiskOptions = {}, backendOptions: Partial<MemoryBackendOptions> = {}) {
  const backend = new MemoryBackend({ sizeBytes: MIB, ...backendOptions });
  return { backend, disk: new Disk(backend, { module, ...options }) };
}

/** The log as short words: W write, W! stable write, R, Z, D, S sync. */
function words(backend: MemoryBackend): string[] {
  const letters = {
    read: 'R',
    write: 'W',
    writeZeroes: 'Z',
    discard: 'D',
    sync: 'S',
    extend: 'E',
  } as const;
  return backend.log.map(({ op, stable }) =>
    op === 'blockStatus' ? 'B' : letters[op] + (stable ? '!' : ''),
  );
}

function filled(length: number, value: number): Uint8Array {
  return new Uint8Array(length).fill(value);
}

/** A turn of the event loop, in which everything submitted reaches the backend. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

const WANTED: Record<CacheModeName, string> = {
  writethrough: 'S W! W!',
  directsync: 'S W! W!',
  writeback: 'S W S W!',
  none: 'S W S W!',
  unsafe: 'W W',
  unspecified: 'S W S W!',
};

describe('cache modes', () => {
  for (const [cache, wanted] of Object.entries(WANTED)) {
    it(`${cache}: flush, write, three flushes, FUA write, flush give "${wanted}"`, async () => {
      const { backend, disk } = setUp({ cache: cache as CacheModeName });
      await disk.flush();
      await disk.write(0, filled(512, 1));
      await disk.flush();
      await disk.flush();
      await disk.flush();
      await disk.write(512, filled(512, 2), { fua: true });
      await disk.flush();
      expect(words(backend).join(' ')).toBe(wanted);
    });
  }

  it('unspecified reads back as writeback', () => {
    const { disk } = setUp({});
    expect([disk.cacheMode, disk.cache]).toEqual(['writeback', CACHE_MODES.writeback]);
  });

  it('takes axes as well as names, and names them', () => {
    const { disk } = setUp({ cache: { direct: true, wce: false, noFlush: false } });
    expect([disk.cacheMode, disk.wce]).toEqual(['directsync', false]);
  });

  it('refuses a name that is not in the table', () => {
    expect(() => setUp({ cache: 'writearound' as CacheModeName })).toThrow(
      expect.objectContaining({ code: 'ERR_SLUICE_INVALID_ARGUMENT' }),
    );
  });
});

describe('reads and writes', () => {
  it('sixteen neighbours written in one turn are one command and read back', async () => {
    const { backend, disk } = setUp();
    const pages = Array.from({ length: 16 }, (_, i) => filled(4096, i + 1));
    await Promise.all(pages.map((page, i) => disk.write(i * 4096, page)));
    expect(backend.log.map(({ op, length }) => [op, length])).toEqual([['write', 65536]]);
    const read = await Promise.all(pages.map((_, i) => disk.read(BigInt(i * 4096), 4096)));
    expect(read).toEqual(pages);
    expect(disk.stats()).toMatchObject({ merged: 30, commands: 2, bytesWritten: 65536 });
  });

  it('a transfer longer than a piece is cut and arrives whole', async () => {
    const { disk } = setUp({}, { sizeBytes: 16 * MIB });
    const bytes = Uint8Array.from({ length: 9 * MIB + 17 }, (_, i) => (i * 2654435761) >>> 24);
    await disk.write(1234, bytes);
    expect(Buffer.compare(await disk.read(1234, bytes.length), bytes)).toBe(0);
  });

  it('reads into the array it is given', async () => {
    const { disk } = setUp();
    await disk.write(0, filled(10, 7));
    const into = new Uint8Array(4);
    expect(await disk.read(3, into)).toBe(into);
    expect(into).toEqual(filled(4, 7));
  });

  it('overlapping requests of one turn keep their order', async () => {
    const { disk } = setUp();
    const before = disk.write(0, filled(8192, 1));
    const read = disk.read(4096, 4096);
    const after = disk.write(4096, filled(4096, 2));
    await Promise.all([before, after]);
    expect(await read).toEqual(filled(4096, 1));
    expect(await disk.read(4096, 4096)).toEqual(filled(4096, 2));
  });

  it('calls of one turn take effect in their order, whatever each needs', async () => {
    const { backend, disk } = setUp({}, { discardFill: 9 });
    const settled = Promise.all([
      disk.write(0, filled(4096, 1)),
      disk.writeZeroes(0, 4096),
      disk.write(4096, filled(4096, 4)),
      disk.discard(4096, 4096),
      disk.write(8192, filled(4096, 5)),
      disk.read(8192, 4096),
      disk.writeZeroes(8192, 4096),
    ]);
    expect((await settled)[5]).toEqual(filled(4096, 5));
    expect([0, 4096, 8192].map((at) => backend.volatile[at])).toEqual([0, 9, 0]);
  });

  it('keeps that order when the first has to wait for a buffer', async () => {
    const { backend, disk } = setUp({ bufferBytes: 65536 }, { hold: true });
    const first = disk.read(65536, 32768);
    const write = disk.write(0, filled(32768, 1));
    const zeroes = disk.writeZeroes(0, 32768);
    await turn();
    backend.hold = false;
    backend.releaseAll();
    await Promise.all([first, write, zeroes]);
    expect(backend.volatile[0]).toBe(0);
  });

  it('a write called before the write cache goes on is still stable', async () => {
    const { backend, disk } = setUp({ cache: 'writethrough' });
    const write = disk.write(0, filled(512, 1));
    const toggle = disk.setWce(true);
    await write;
    expect(backend.stable[0]).toBe(1);
    await toggle;
  });

  it('takes the bytes as they are at the call when a buffer is free', async () => {
    const { backend, disk } = setUp();
    const bytes = filled(512, 1);
    const write = disk.write(0, bytes);
    bytes.fill(2);
    await write;
    expect(backend.volatile[0]).toBe(1);
  });

  it('five thousand calls at once all settle, in bounded memory', async () => {
    const { disk } = setUp({ bufferBytes: 65536 });
    await Promise.all(
      Array.from({ length: 5000 }, (_, i) => disk.write((i % 256) * 4096, filled(4096, i))),
    );
    expect(await disk.read(0, 4096)).toEqual(filled(4096, 4864));
  });
});

describe('flush', () => {
  it('makes completed writes stable, and only then resolves', async () => {
    const { backend, disk } = setUp();
    await disk.write(0, filled(512, 9));
    expect(backend.stable[0]).toBe(0);
    backend.hold = true;
    let flushed = false;
    const flush = disk.flush().then(() => (flushed = true));
    await turn();
    expect(flushed).toBe(false);
    backend.releaseAll();
    await flush;
    expect(backend.stable[0]).toBe(9);
  });

  it('a failed sync fails this flush, and every later one without a sync', async () => {
    const { backend, disk } = setUp();
    await disk.write(0, filled(512, 1));
    backend.fail('sync', { errno: EIO });
    await expect(disk.flush()).rejects.toMatchObject({
      code: 'ERR_SLUICE_IO',
      cause: { code: 'EIO', errno: -EIO },
    });
    await expect(disk.flush()).rejects.toMatchObject({ code: 'ERR_SLUICE_FLUSH_LATCHED' });
    expect(words(backend)).toEqual(['W', 'S']);
  });

  it('turning the write cache off flushes first, and makes later writes stable', async () => {
    const { backend, disk } = setUp();
    await disk.write(0, filled(512, 1));
    await disk.setWce(false);
    expect(backend.stable[0]).toBe(1);
    expect(disk.wce).toBe(false);
    await disk.write(512, filled(512, 2));
    expect(backend.stable[512]).toBe(2);
    disk.wce = true;
    await disk.write(1024, filled(512, 3));
    expect([disk.wce, backend.stable[1024]]).toEqual([true, 0]);
  });

  it('stable zeroes and discards are synced before they resolve', async () => {
    const { backend, disk } = setUp();
    await disk.flush();
    await disk.writeZeroes(0, 4096, { fua: true });
    await disk.discard(8192, 4096, { fua: true });
    expect(words(backend)).toEqual(['S', 'Z', 'S', 'D', 'S']);
  });
});

describe('errors', () => {
  it('a write on a read-only disk, past the end, or with a bad offset', async () => {
    const { disk } = setUp({}, { readOnly: true });
    const write = (offset: number) => disk.write(offset, filled(512, 1));
    await expect(write(0)).rejects.toMatchObject({ code: 'ERR_SLUICE_READ_ONLY' });
    await expect(write(MIB - 511)).rejects.toMatchObject({
      code: 'ERR_SLUICE_OUT_OF_RANGE',
      offset: MIB - 511,
      length: 512,
    });
    await expect(write(-1)).rejects.toMatchObject({ code: 'ERR_SLUICE_INVALID_ARGUMENT' });
    await expect(write(0.5)).rejects.toMatchObject({ code: 'ERR_SLUICE_INVALID_ARGUMENT' });
    await expect(disk.read(2n ** 60n, 1)).rejects.toMatchObject({
      code: 'ERR_SLUICE_INVALID_ARGUMENT',
    });
  });

  it('a merged command that fails is sent again in parts, and the bad part fails', async () => {
    const { backend, disk } = setUp();
    backend.fail('write', { errno: EIO });
    backend.fail('write', { errno: ENOSPC, nth: 3 });
    const writes = [0, 1, 2].map((i) => disk.write(i * 512, filled(512, i + 1)));
    const settled = await Promise.allSettled(writes);
    expect(settled.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect(settled[1]).toMatchObject({ reason: { code: 'ERR_SLUICE_NO_SPACE', offset: 512 } });
    expect(disk.stats().reissued).toBe(3);
  });

  it('what the backend cannot do quickly is unsupported', async () => {
    const { disk } = setUp({}, { fastZeroes: false });
    await expect(disk.writeZeroes(0, 512, { fast: true })).rejects.toMatchObject({
      code: 'ERR_SLUICE_UNSUPPORTED',
    });
  });
});

describe('arguments', () => {
  const wrong = 'ERR_SLUICE_INVALID_ARGUMENT';
  it('of the wrong type are refused, never bent into something else', async () => {
    const { backend, disk } = setUp();
    const any = (value: unknown): never => value as never;
    const calls = [
      ...[null, '', [], '5', true, Number.NaN, {}].map((offset) => disk.read(any(offset), 4)),
      disk.write(0, any(new Uint16Array(2))),
      disk.write(0, any('text')),
      disk.write(0, any(null)),
      disk.read(0, any(new Float32Array(2))),
      disk.read(0, any(new ArrayBuffer(2))),
      disk.write(0, filled(1, 1), { fua: any(1) }),
      disk.writeZeroes(0, 1, { mayUnmap: any('yes') }),
      disk.setWce(any(0)),
    ];
    for (const { status, reason } of (await Promise.allSettled(calls)) as PromiseRejectedResult[]) {
      expect([status, (reason as { code: string }).code]).toEqual(['rejected', wrong]);
    }
    expect(backend.log).toEqual([]);
  });

  it('of the constructor too', () => {
    const bad: unknown[] = [
      { cache: {} },
      { cache: { direct: true } },
      { cache: null },
      { cache: 7 },
      { mergeBytes: -1 },
      { mergeBytes: Number.NaN },
      { bufferBytes: 100_000 },
      { bufferBytes: 2 ** 31 },
      { bufferBytes: '65536' },
      { bufferBytes: 65_536n },
    ];
    for (const options of bad) {
      const make = () => setUp(options as DiskOptions);
      expect(make).toThrow(expect.objectContaining({ code: wrong }));
    }
  });
});

describe('abort', () => {
  it('rejects with the reason at once, and the buffer comes back later', async () => {
    const { backend, disk } = setUp({ bufferBytes: 65536 }, { hold: true });
    const controller = new AbortController();
    const read = disk.read(0, 32768, { signal: controller.signal });
    const waiting = disk.write(0, filled(32768, 1), { signal: controller.signal });
    const patient = disk.read(0, 32768);
    await turn();
    controller.abort(new Error('enough'));
    await expect(read).rejects.toThrow('enough');
    await expect(waiting).rejects.toThrow('enough');
    backend.hold = false;
    backend.releaseAll();
    expect(await patient).toEqual(new Uint8Array(32768));
  });

  it('an aborted signal refuses before anything is sent', async () => {
    const { backend, disk } = setUp();
    await expect(disk.write(0, filled(1, 1), { signal: AbortSignal.abort() })).rejects.toThrow();
    await expect(disk.flush({ signal: AbortSignal.abort() })).rejects.toThrow();
    expect(backend.log).toEqual([]);
  });
});

describe('close', () => {
  it('finishes open calls, flushes, closes the backend; twice is fine', async () => {
    const { backend, disk } = setUp({}, { sizeBytes: 16 * MIB });
    const write = disk.write(0, filled(9 * MIB, 5));
    const closing = disk.close();
    await Promise.all([write, closing, disk.close()]);
    expect(backend.closed).toBe(true);
    expect(backend.stable[9 * MIB - 1]).toBe(5);
    await expect(disk.read(0, 1)).rejects.toMatchObject({ code: 'ERR_SLUICE_CLOSED' });
    await expect(disk.flush()).rejects.toMatchObject({ code: 'ERR_SLUICE_CLOSED' });
  });

  it('rejects when the last flush fails, and is closed all the same', async () => {
    const { backend, disk } = setUp();
    await disk.write(0, filled(1, 1));
    backend.fail('sync');
    await expect(disk.close()).rejects.toMatchObject({ code: 'ERR_SLUICE_IO' });
    expect(backend.closed).toBe(true);
  });

  it('is what `await using` does', async () => {
    const { backend, disk } = setUp();
    await disk[Symbol.asyncDispose]();
    expect(backend.closed).toBe(true);
  });
});

describe('block status', () => {
  it('walks the disk in runs without gaps', async () => {
    const { disk } = setUp();
    await disk.write(65536, filled(4096, 1));
    const extents = [];
    for await (const extent of disk.blockStatus()) extents.push(extent);
    expect(extents.map(({ offset, length }) => offset + length).at(-1)).toBe(MIB);
    expect(extents.find(({ offset }) => offset === 65536)).toMatchObject({
      kind: 'data',
      length: 4096,
    });
  });
});
