/** Transfers by io_uring: the ring itself, with a kernel made up and with the real one. */
import { closeSync, fstatSync, openSync } from 'node:fs';
import { describe, expect, it, vi } from 'vitest';

import { newCounters } from '../../src/backend/file-counters.ts';
import { EngineMemory } from '../../src/backend/engine-memory.ts';
import { FileData, type Ring } from '../../src/backend/file-data.ts';
import { openFileBackend } from '../../src/backend/file.ts';
import { openDescriptors } from '../../src/backend/file-open.ts';
import { newFileState } from '../../src/backend/file-state.ts';
import { loadNative } from '../../src/backend/native.ts';
import { threadUring, Uring, URING_READ, URING_WRITE } from '../../src/backend/uring.ts';
import type { UringNative } from '../../src/backend/uring-native.ts';
import { DATA, Driver, pattern } from './driver.ts';
import { backendOpener, scratchFile, scratchFolder } from './scratch.ts';

const EIO = 5;
const EAGAIN = 11;
const EINVAL = 22;
const ENTRIES = 256;
const COMPLETIONS = 512;
const folder = scratchFolder();
const open = backendOpener();
const skipReason = 'there is no io_uring here';
const real = threadUring() === null ? { skip: true, meta: { skipReason } } : {};

/** Where the made-up kernel has its rings, in bytes. */
const SQ = { head: 0, tail: 4, mask: 8, array: 64 };
const CQ = { head: 16, tail: 20, mask: 24, cqes: 2048 };

/** A kernel whose submissions and answers the test makes. */
class Kernel implements UringNative {
  readonly rings = new Int32Array((CQ.cqes + COMPLETIONS * 16) / 4);
  readonly entries = new Uint32Array(ENTRIES * 16);
  features = 0xff;
  /** Answers of coming submissions; then all that is offered is taken. */
  readonly answers: number[] = [];
  readonly taken: { op: number; slot: number; offset: number; length: number }[] = [];
  held = false;
  readable: () => void = () => undefined;
  /** A descriptor that the ring may close. */
  readonly fd = openSync('/dev/null', 'r');

  setup(entries: number, params: Uint32Array): number {
    expect(entries).toBe(ENTRIES);
    params[0] = ENTRIES;
    params[1] = COMPLETIONS;
    params[5] = this.features;
    params.set([SQ.head, SQ.tail, SQ.mask, 0, 0, 0, SQ.array], 10);
    params.set([CQ.head, CQ.tail, CQ.mask, 0, 0, CQ.cqes], 20);
    return this.fd;
  }

  submit(_fd: number, count: number): number {
    const answer = this.answers.shift() ?? count;
    for (let index = 0; index < answer; index++) this.#take();
    return answer;
  }

  map(_fd: number, _length: number, offset: number): ArrayBuffer {
    return offset === 0 ? this.rings.buffer : this.entries.buffer;
  }

  watch(_fd: number, readable: () => void) {
    this.readable = readable;
    return { hold: () => (this.held = true), release: () => (this.held = false) };
  }

  /** Answers what was taken, by its place in `taken`. */
  complete(...results: [index: number, result: number][]): void {
    for (const [index, result] of results) {
      const tail = this.rings[CQ.tail / 4] ?? 0;
      const at = CQ.cqes / 4 + (tail & (COMPLETIONS - 1)) * 4;
      this.rings[at] = this.taken[index]?.slot ?? -1;
      this.rings[at + 2] = result;
      this.rings[CQ.tail / 4] = tail + 1;
    }
    this.readable();
  }

  #take(): void {
    const head = this.rings[SQ.head / 4] ?? 0;
    const entry = (this.rings[SQ.array / 4 + (head & (ENTRIES - 1))] ?? 0) * 16;
    const [op = 0, , low = 0, high = 0] = this.entries.subarray(entry);
    const offset = high * 2 ** 32 + low;
    const { [entry + 6]: length = 0, [entry + 8]: slot = -1 } = this.entries;
    this.taken.push({ op, slot, offset, length });
    this.rings[SQ.head / 4] = head + 1;
  }
}

function ringOf(kernel: Kernel): Uring {
  const ring = Uring.open(kernel);
  if (ring === undefined) throw new Error('no ring');
  return ring;
}

/** Starts a read whose result goes to `results`. */
function start(ring: Uring, offset: number, results: number[]): boolean {
  return ring.transfer(URING_READ, 3, offset, 0, 4096, (result) => results.push(result));
}

describe('a ring', () => {
  it('submits what was asked for in a turn at once, and settles from the event loop', async () => {
    const kernel = new Kernel();
    const ring = ringOf(kernel);
    const results: number[] = [];
    const far = 5 * 2 ** 40 + 512;
    for (const offset of [0, 4096, far]) expect(start(ring, offset, results)).toBe(true);
    expect(kernel.taken).toEqual([]);
    await Promise.resolve();
    expect(kernel.taken.map(({ offset }) => offset)).toEqual([0, 4096, far]);
    expect(ring.submissions).toBe(1);
    expect([ring.open, kernel.held]).toEqual([3, true]);
    kernel.complete([2, 4096], [0, -EIO]);
    expect(results).toEqual([4096, -EIO]);
    expect(kernel.held).toBe(true);
    kernel.complete([1, 512]);
    expect(results).toEqual([4096, -EIO, 512]);
    expect([ring.open, kernel.held]).toEqual([0, false]);
  });

  it('holds no more than the completion ring, and goes round both (U2)', () => {
    const kernel = new Kernel();
    const ring = ringOf(kernel);
    const results: number[] = [];
    let started = 0;
    let settled = 0;
    for (let round = 0; round < 5; round++) {
      while (start(ring, started * 4096, results)) started++;
      ring.submit();
      expect(ring.open).toBe(COMPLETIONS);
      kernel.complete(
        ...Array.from({ length: COMPLETIONS - round }, (): [number, number] => [settled++, 1]),
      );
    }
    expect(results).toHaveLength(settled);
    const offsets = kernel.taken.map(({ offset }) => offset);
    expect(offsets).toEqual(Array.from({ length: started }, (_, index) => index * 4096));
  });

  it('hands over in parts, of which the kernel answers one while the next is seen to', async () => {
    const kernel = new Kernel();
    const calls = vi.spyOn(kernel, 'submit');
    const ring = ringOf(kernel);
    const sizes = async (count: number): Promise<number[]> => {
      calls.mockClear();
      for (let index = 0; index < count; index++) start(ring, index * 4096, []);
      await Promise.resolve();
      return calls.mock.calls.map(([, part]) => part);
    };
    expect(await sizes(1)).toEqual([1]);
    expect(await sizes(6)).toEqual([2, 2, 2]);
    expect(await sizes(16)).toEqual([4, 4, 4, 4]);
    expect(await sizes(50)).toEqual([8, 8, 8, 8, 8, 8, 2]);
  });

  it('says that vectors are free when all were handed over, and not before (U3)', async () => {
    const kernel = new Kernel();
    const ring = ringOf(kernel);
    kernel.answers.push(1, -EAGAIN);
    for (const offset of [0, 4096]) start(ring, offset, []);
    await Promise.resolve();
    expect([kernel.taken.length, ring.submissions]).toEqual([1, 0]);
    await vi.waitFor(() => expect(kernel.taken).toHaveLength(2));
    expect(ring.submissions).toBe(1);
  });

  it('offers again what the kernel has no memory for (U4)', async () => {
    const kernel = new Kernel();
    const ring = ringOf(kernel);
    const results: number[] = [];
    kernel.answers.push(1, -EAGAIN, -EAGAIN);
    for (const offset of [0, 4096, 8192]) start(ring, offset, results);
    await vi.waitFor(() => expect(kernel.taken).toHaveLength(3));
    kernel.complete([0, 1], [1, 2], [2, 3]);
    expect(results).toEqual([1, 2, 3]);
  });

  it('settles what the kernel refuses, in order, and goes on (U4)', async () => {
    const kernel = new Kernel();
    const ring = ringOf(kernel);
    const results: number[] = [];
    kernel.answers.push(1, -EINVAL);
    for (const offset of [0, 4096, 8192]) start(ring, offset, results);
    await vi.waitFor(() => expect(results).toEqual([-EINVAL, -EINVAL]));
    start(ring, 12_288, results);
    await Promise.resolve();
    expect(kernel.taken.map(({ offset }) => offset)).toEqual([0, 12_288]);
    kernel.complete([0, 1], [1, 2]);
    expect(results).toEqual([-EINVAL, -EINVAL, 1, 2]);
    expect(kernel.held).toBe(false);
  });

  it('loses no answer when somebody who is settled throws or asks for more', async () => {
    const kernel = new Kernel();
    const ring = ringOf(kernel);
    const results: number[] = [];
    ring.transfer(URING_WRITE, 3, 0, 0, 1, () => {
      start(ring, 4096, results);
      throw new Error('made up');
    });
    start(ring, 8192, results);
    await Promise.resolve();
    expect(() => kernel.complete([0, 1], [1, 7])).toThrow('made up');
    kernel.readable();
    expect(results).toEqual([7]);
    await Promise.resolve();
    kernel.complete([2, 8]);
    expect(results).toEqual([7, 8]);
  });

  it('is not made of a kernel that is too old, which keeps no descriptor', () => {
    const kernel = new Kernel();
    kernel.features = 0b0111;
    expect(Uring.open(kernel)).toBeUndefined();
    expect(() => fstatSync(kernel.fd)).toThrow('EBADF');
    const none = new Kernel();
    none.setup = () => -EINVAL;
    expect(Uring.open(none)).toBeUndefined();
  });
});

describe('a transfer by a ring', { skip: loadNative() === null }, () => {
  /** FileData over a ring that answers as it is told. */
  async function dataOver(path: string, answer: (op: number, length: number) => number) {
    const files = await openDescriptors(path, { direct: true, noFlush: false, writable: true });
    const ring: Ring = {
      submissions: 0,
      submit: () => undefined,
      transfer: (op, _fd, _offset, _address, length, settle) => {
        setImmediate(() => settle(answer(op, length)));
        return true;
      },
    };
    const alignment = { blockBytes: 512, memoryBytes: 512 };
    const [options, native, counters] = [{ direct: true }, loadNative(), newCounters()];
    const state = newFileState(1 << 20);
    const parts = { files, native, ring: () => ring, alignment, state, options, counters };
    const data = new FileData(parts);
    const bytes = new WebAssembly.Memory({ initial: 2 });
    const answered = new Promise<number>((resolve) => {
      data.attach(new EngineMemory(bytes), (_id, errno) => resolve(errno));
    });
    const close = (): void => [files.plain, files.stable].forEach((fd) => fd && closeSync(fd));
    return { data, memory: new Uint8Array(bytes.buffer), answered, close };
  }
  const command = { id: 1, offset: 4096, length: 8192, segments: 1, data: 65_536 };

  it.each([
    ['stops in the middle of a block', 1000],
    ['moves nothing', 0],
    ['is interrupted', -4],
    ['would have to wait', -EAGAIN],
  ])('that %s is finished in the pool', async (_, result) => {
    const path = scratchFile(folder, pattern(1 << 20));
    const { data, memory, answered, close } = await dataOver(path, () => result);
    data.read(command);
    expect(await answered).toBe(0);
    // The made-up ring has moved nothing, so the whole blocks that it claims are not there.
    const from = 65_536 + Math.max(0, result - (result % 512));
    const want = pattern(1 << 20).subarray(4096 + from - 65_536, 4096 + 8192);
    expect(Buffer.compare(memory.subarray(from, 65_536 + 8192), want)).toBe(0);
    close();
  });

  it('that fails is not tried again', async () => {
    const asked: number[] = [];
    const { data, answered, close } = await dataOver(scratchFile(folder), (op) => {
      asked.push(op);
      return -EIO;
    });
    data.write(command, false);
    expect(await answered).toBe(EIO);
    expect(asked).toEqual([URING_WRITE]);
    close();
  });
});

describe('with the real ring', real, () => {
  it('a file is read and written as it is without', async () => {
    const path = scratchFile(folder, pattern(4 << 20));
    const { backend, driver } = await open(path, { direct: true, writable: true });
    const writes = Array.from({ length: 300 }, (_, index) => index);
    // All in flight at once, from the same bytes: more than the ring has entries.
    const piece = pattern(4096);
    await Promise.all(writes.map((index) => driver.write(index * 8192, piece)));
    expect(backend.counters.inRing).toBe(300);
    const whole = await driver.read(0, 4 << 20);
    for (const index of writes) {
      expect(Buffer.compare(whole.subarray(index * 8192, index * 8192 + 4096), piece)).toBe(0);
    }
  });

  it('vectors of many commands of a turn do not touch one another', async () => {
    const bytes = pattern(2 << 20);
    const { backend, driver } = await open(scratchFile(folder, bytes), { direct: true });
    // 40 commands of 64 segments: more than there are entries of vectors. Each is read backwards.
    const found = await Promise.all(
      Array.from({ length: 40 }, async (_, command) => {
        const base = DATA + command * 32_768;
        const places = Array.from({ length: 64 }, (_, index) => base + (63 - index) * 512);
        const table = driver.table(
          places.map((address) => [address, 512] as const),
          4096 + command * 1024,
        );
        await driver.run((id) => backend.read(id, command * 32_768, 32_768, 64, table));
        return places.every((at, index) => {
          const from = command * 32_768 + index * 512;
          const want = bytes.subarray(from, from + 512);
          return Buffer.compare(driver.bytes.subarray(at, at + 512), want) === 0;
        });
      }),
    );
    expect(found).not.toContain(false);
    expect(backend.counters.inRing).toBe(40);
  });

  it('errors come back', () => {
    const ring = threadUring();
    return expect(
      new Promise((resolve) => ring?.transfer(URING_READ, -1, 0, 0, 1, resolve)),
    ).resolves.toBe(-9);
  });

  it('is asked for, and refused where there is none', async () => {
    const path = scratchFile(folder);
    const { backend } = await open(path, { aio: 'io_uring', direct: true });
    expect(backend.depth).toBe(64);
    vi.stubEnv('SLUICE_NO_KOFFI', '1');
    await expect(openFileBackend(path, { aio: 'io_uring', lock: 'none' })).rejects.toMatchObject({
      code: 'ERR_SLUICE_UNSUPPORTED',
    });
    const { backend: pooled } = await open(path, { direct: true }, false);
    expect(pooled.depth).toBe(8);
    expect(await new Driver(pooled).read(0, 4096)).toHaveLength(4096);
    expect(pooled.counters).toMatchObject({ inRing: 0, offThread: 1 });
  });

  it('is left alone by aio: threads', async () => {
    const { backend, driver } = await open(scratchFile(folder), { direct: true, aio: 'threads' });
    await driver.read(0, 4096);
    expect(backend.counters).toMatchObject({ inRing: 0, offThread: 1 });
  });
});
