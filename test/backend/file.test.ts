import { readFileSync, truncateSync } from 'node:fs';
import { describe, expect, it, vi } from 'vitest';

import { DATA, Driver, expectSame, pattern } from './driver.ts';
import {
  backendOpener,
  describeWays,
  hasDirect,
  NO_DIRECT,
  scratchFile,
  scratchFolder,
} from './scratch.ts';

const EIO = 5;
const EBADF = 9;
const EFAULT = 14;
const EINVAL = 22;
const EROFS = 30;
const KIB = 1024;
const MIB = KIB * KIB;

const folder = scratchFolder();
const open = backendOpener();

describeWays('a file', folder, ({ direct, koffi }) => {
  const openWritable = (path: string) => open(path, { writable: true, direct }, koffi);

  it('reads what was written, and so does everybody else', async () => {
    const path = scratchFile(folder);
    const { driver } = await openWritable(path);
    expect(await driver.write(8 * KIB, pattern(64 * KIB))).toBe(0);
    expectSame(await driver.read(8 * KIB, 64 * KIB), pattern(64 * KIB));
    expectSame(readFileSync(path).subarray(8 * KIB, 72 * KIB), pattern(64 * KIB));
  });

  it('moves a vector of segments in their order', async () => {
    const { driver, backend } = await openWritable(scratchFile(folder));
    const pieces = [0, 1, 2].map((piece) => pattern(4096 * (piece + 1), piece));
    const at = [DATA + 128 * KIB, DATA, DATA + 64 * KIB];
    pieces.forEach((piece, index) => driver.bytes.set(piece, at[index]));
    const table = driver.table(pieces.map((piece, index) => [at[index] ?? 0, piece.length]));
    const length = 6 * 4096;
    expect((await driver.run((id) => backend.write(id, 4096, length, 3, table, false))).errno).toBe(
      0,
    );
    expectSame(
      await driver.read(4096, length, DATA + 256 * KIB),
      Uint8Array.from(pieces.flatMap((piece) => [...piece])),
    );
    at.forEach((address, index) => driver.bytes.fill(0, address, address + 4096 * (index + 1)));
    expect((await driver.run((id) => backend.read(id, 4096, length, 3, table))).errno).toBe(0);
    pieces.forEach((piece, index) => {
      const start = at[index] ?? 0;
      expectSame(driver.bytes.subarray(start, start + piece.length), piece);
    });
  });

  it('moves more segments than one system call takes', async () => {
    const { driver, backend } = await openWritable(scratchFile(folder, new Uint8Array(2 * MIB)));
    const count = 1500;
    const data = pattern(count * 512);
    driver.bytes.set(data, DATA);
    const segments = Array.from(
      { length: count },
      (_, index) => [DATA + index * 512, 512] as const,
    );
    const table = driver.table(segments);
    const { errno } = await driver.run((id) =>
      backend.write(id, 0, data.length, count, table, false),
    );
    expect(errno).toBe(0);
    driver.bytes.fill(0, DATA, DATA + data.length);
    expect((await driver.run((id) => backend.read(id, 0, data.length, count, table))).errno).toBe(
      0,
    );
    expectSame(driver.bytes.subarray(DATA, DATA + data.length), data);
  });

  it.each([
    ['offset', 1000, 512 * 7, DATA],
    ['length', 4096, 5000, DATA],
    ['address', 4096, 8192, DATA + 7],
    ['everything', 12345, 700_001, DATA + 3],
    ['one byte', 511, 1, DATA + 1],
    ['the end of a block', 4096, 512 * 3 - 1, DATA],
    ['the first and last byte of two blocks', 1023, 2, DATA],
  ])('takes an odd %s and leaves the neighbours alone', async (_name, offset, length, address) => {
    const before = pattern(MIB, 9);
    const path = scratchFile(folder, before);
    const { driver, backend } = await openWritable(path);
    const data = pattern(length, 4);
    expect(await driver.write(offset, data, false, address)).toBe(0);
    const expected = before.slice();
    expected.set(data, offset);
    expectSame(readFileSync(path), expected);
    driver.bytes.fill(0, address, address + length);
    expectSame(await driver.read(offset, length, address), data);
    expect(backend.counters.bounced).toBe(direct ? 2 : 0);
  });

  it('takes odd segments', async () => {
    const before = pattern(MIB, 2);
    const path = scratchFile(folder, before);
    const { driver, backend } = await openWritable(path);
    const segments = [
      [DATA + 5, 300],
      [DATA + 9000, 1],
      [DATA + 2000, 723],
    ] as const;
    segments.forEach(([address, length], index) =>
      driver.bytes.set(pattern(length, index + 20), address),
    );
    const table = driver.table(segments);
    await driver.run((id) => backend.write(id, 777, 1024, 3, table, true));
    const expected = before.slice();
    expected.set(pattern(300, 20), 777);
    expected.set(pattern(1, 21), 1077);
    expected.set(pattern(723, 22), 1078);
    expectSame(readFileSync(path), expected);
    driver.bytes.fill(0, DATA, DATA + 10_000);
    expect((await driver.run((id) => backend.read(id, 777, 1024, 3, table))).errno).toBe(0);
    segments.forEach(([address, length], index) => {
      expectSame(driver.bytes.subarray(address, address + length), pattern(length, index + 20));
    });
  });

  it('bounces many at once in a bounded number of buffers', async () => {
    const { driver, backend } = await openWritable(scratchFile(folder));
    const commands = Array.from({ length: 40 }, (_, index) => index);
    for (const index of commands) driver.bytes.set(pattern(1000, index), DATA + index * 1000);
    const errnos = await Promise.all(
      commands.map((index) =>
        driver.run((id) =>
          backend.write(id, index * 8192 + 9, 1000, 1, DATA + index * 1000, false),
        ),
      ),
    );
    expect(errnos.every(({ errno }) => errno === 0)).toBe(true);
    for (const index of commands) {
      expectSame(await driver.read(index * 8192 + 9, 1000), pattern(1000, index));
    }
  });

  it('answers EIO, not zeroes, where the file was cut', async () => {
    const path = scratchFile(folder, pattern(MIB));
    const { driver } = await openWritable(path);
    truncateSync(path, MIB / 2 + 100);
    const inside = await driver.tryRead(0, 64 * KIB);
    const across = await driver.tryRead(MIB / 2 - 4096, 8192);
    const oddAcross = await driver.tryRead(MIB / 2 - 4095, 8190);
    const past = await driver.tryRead(MIB - 4096, 4096);
    expect([inside, across, oddAcross, past].map(({ errno }) => errno)).toEqual([0, EIO, EIO, EIO]);
  });

  it('ignores that the file grew', async () => {
    const path = scratchFile(folder);
    const { driver, backend } = await openWritable(path);
    truncateSync(path, 2 * MIB);
    expect(backend.sizeBytes).toBe(MIB);
    expect((await driver.tryRead(MIB, 4096)).errno).toBe(EINVAL);
    expect(await driver.write(MIB - 512, pattern(1024))).toBe(EINVAL);
  });

  it('makes stable writes stable through its own descriptor', async () => {
    const path = scratchFile(folder);
    const { driver, backend } = await openWritable(path);
    expect(await driver.write(4096, pattern(4096), true)).toBe(0);
    expect(await driver.write(10, pattern(100), true)).toBe(0);
    expectSame(await driver.read(10, 100), pattern(100));
    expect(await driver.sync()).toBe(0);
    expect(backend.counters).toMatchObject({ writes: 2, stableWrites: 2, syncs: 1 });
  });

  it('waits for a transfer that is alone, but not for long ones nor after a slow one', async () => {
    const { driver, backend } = await openWritable(scratchFile(folder));
    let step = 0;
    let now = 0;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => (now += step));
    const offThread = async (calls: number, length = 4096): Promise<number> => {
      const before = backend.counters.offThread;
      for (let call = 0; call < calls; call++)
        await driver.run((id) => backend.write(id, 0, length, 1, DATA, true));
      return backend.counters.offThread - before;
    };
    expect(await offThread(1)).toBe(1);
    backend.alone = true;
    expect(await offThread(10)).toBe(0);
    expect(await offThread(1, 256 * 1024)).toBe(1);
    step = 2;
    expect(await offThread(1)).toBe(0);
    expect(await offThread(33)).toBe(32);
    clock.mockRestore();
  });

  it('makes direct and stable transfers on the thread when they are alone', async () => {
    const { driver, backend } = await openWritable(scratchFile(folder));
    // However long this machine's disk takes.
    const clock = vi.spyOn(performance, 'now').mockReturnValue(0);
    backend.alone = true;
    let answered = 0;
    driver.bytes.set(pattern(4096), DATA);
    void driver.run((id) => backend.write(id, 0, 4096, 1, DATA, true)).then(() => answered++);
    void driver.run((id) => backend.read(id, 0, 4096, 1, DATA)).then(() => answered++);
    expect(driver.inFlight).toBe(0);
    expect(backend.counters.offThread).toBe(0);
    clock.mockRestore();
  });

  it('refuses what lies outside the memory or the disk, without touching either', async () => {
    const { driver, backend } = await openWritable(scratchFile(folder));
    const end = driver.bytes.length;
    const run = async (start: (id: number) => void) => (await driver.run(start)).errno;
    expect(await run((id) => backend.read(id, 0, 4096, 1, end - 512))).toBe(EFAULT);
    expect(await run((id) => backend.write(id, 0, 4096, 1, end - 512, false))).toBe(EFAULT);
    expect(await run((id) => backend.read(id, 0, 4096, 1, -4096))).toBe(EFAULT);
    const outside = driver.table([
      [DATA, 512],
      [end - 100, 512],
    ]);
    expect(await run((id) => backend.read(id, 0, 1024, 2, outside))).toBe(EFAULT);
    const tooShort = driver.table([
      [DATA, 512],
      [DATA, 512],
    ]);
    expect(await run((id) => backend.read(id, 0, 2048, 2, tooShort))).toBe(EFAULT);
    expect(await run((id) => backend.read(id, 0, 1024, 1e9, tooShort))).toBe(EFAULT);
    expect(await run((id) => backend.read(id, MIB, 512, 1, DATA))).toBe(EINVAL);
    expect(await run((id) => backend.read(id, -512, 512, 1, DATA))).toBe(EINVAL);
    expect(await run((id) => backend.blockStatus(id, 0, MIB, end - 16))).toBe(EFAULT);
    expect(await run((id) => backend.read(id, 0, 0, 1, DATA))).toBe(0);
  });

  it('executes no write when it is read-only', async () => {
    const { driver, backend } = await open(scratchFile(folder), { direct }, koffi);
    expect(backend.readOnly).toBe(true);
    expect(await driver.write(0, pattern(512))).toBe(EROFS);
    expect(await driver.zero(0, 512)).toBe(EROFS);
    expect(await driver.discard(0, 512)).toBe(EROFS);
    expect(await driver.sync()).toBe(0);
    expectSame(await driver.read(0, 512), new Uint8Array(512));
  });

  it('answers EBADF after it was closed, and closes once', async () => {
    const { driver, backend } = await openWritable(scratchFile(folder));
    await backend.close();
    await backend.close();
    expect((await driver.tryRead(0, 512)).errno).toBe(EBADF);
    expect(await driver.write(0, pattern(512))).toBe(EBADF);
    expect(await driver.zero(0, 512)).toBe(EBADF);
    expect(await driver.sync()).toBe(EBADF);
  });

  it('works on shared memory', async () => {
    const { backend } = await openWritable(scratchFile(folder));
    const memory = new WebAssembly.Memory({ initial: 16, maximum: 16, shared: true });
    const driver = new Driver(backend, memory);
    expect(await driver.write(0, pattern(8192))).toBe(0);
    expectSame(await driver.read(0, 8192, DATA + 16384), pattern(8192));
    const table = driver.table([
      [DATA, 4096],
      [DATA + 8192, 4096],
    ]);
    expect((await driver.run((id) => backend.read(id, 0, 8192, 2, table))).errno).toBe(0);
    expectSame(driver.bytes.subarray(DATA + 8192, DATA + 12288), pattern(8192).slice(4096));
  });
});

describe('a file in the page cache', () => {
  it('reads on the thread what is cached, and on the pool what is not', async (context) => {
    if (!hasDirect(folder)) context.skip(NO_DIRECT);
    const path = scratchFile(folder);
    const writer = await open(path, { writable: true, direct: true });
    // A direct write throws the pages out of the cache.
    expect(await writer.driver.write(0, pattern(MIB))).toBe(0);
    const { driver, backend } = await open(path, { lock: 'none' });
    const cold = driver.run((id) => backend.read(id, MIB / 2, 4096, 1, DATA));
    expect(driver.inFlight).toBe(1);
    expect((await cold).errno).toBe(0);
    const warm = driver.run((id) => backend.read(id, MIB / 2, 4096, 1, DATA));
    expect(driver.inFlight).toBe(0);
    expect((await warm).errno).toBe(0);
    expect(backend.counters.offThread).toBe(1);
    expectSame(
      driver.bytes.subarray(DATA, DATA + 4096),
      pattern(MIB).subarray(MIB / 2, MIB / 2 + 4096),
    );
  });

  it('sends long transfers to the pool', async () => {
    const { driver, backend } = await open(scratchFile(folder), {
      writable: true,
      inlineBytes: 4096,
    });
    expect(await driver.write(0, pattern(4096))).toBe(0);
    expect(backend.counters.offThread).toBe(0);
    expect(await driver.write(0, pattern(4097))).toBe(0);
    expectSame(await driver.read(0, 4097), pattern(4097));
    expect(backend.counters.offThread).toBe(2);
  });

  it('takes a size that is no multiple of anything', async () => {
    const { driver, backend } = await open(scratchFile(folder, pattern(12345)), { writable: true });
    expect(backend).toMatchObject({ sizeBytes: 12345, blockSizeBytes: 1, depth: 256 });
    expectSame(await driver.read(12000, 345), pattern(12345).slice(12000));
    expect(await driver.write(12340, pattern(5))).toBe(0);
  });

  it('acknowledges syncs and stable writes at once with noFlush', async () => {
    const { driver, backend } = await open(scratchFile(folder), { writable: true, noFlush: true });
    expect(await driver.write(0, pattern(4096), true)).toBe(0);
    expect(await driver.sync()).toBe(0);
    expect(backend.counters).toMatchObject({ syncs: 0, stableWrites: 0, offThread: 0 });
  });

  it('counts what it does', async () => {
    const { driver, backend } = await open(scratchFile(folder), { writable: true });
    await driver.write(0, pattern(1000));
    await driver.read(0, 500);
    await driver.sync();
    expect(backend.counters).toMatchObject({
      reads: 1,
      writes: 1,
      bytesRead: 500,
      bytesWritten: 1000,
      syncs: 1,
      bounced: 0,
    });
  });
});
