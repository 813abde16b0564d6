// A disk that moves to another memory keeps all that it knows; memories that grow under it.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { DEVICE_QUEUE_COUNT } from '../src/abi/virtio-device.ts';
import { REGION_SIZE } from '../src/abi/region.ts';
import { MemoryBackend, type MemoryBackendOptions } from '../src/backend/memory.ts';
import { Disk } from '../src/disk.ts';
import type { DiskOptions } from '../src/disk-types.ts';
import { inlinedModule, inlinedSharedModule, missingExports } from '../src/engine-modules.ts';
import { footprintBytes, type Place } from '../src/place.ts';

const MIB = 1 << 20;
const PAGE = 65_536;
const ARENA = PAGE;
const debug = new WebAssembly.Module(readFileSync('build/engine.debug.wasm'));

function setUp(options: DiskOptions = {}, backendOptions: Partial<MemoryBackendOptions> = {}) {
  const backend = new MemoryBackend({ sizeBytes: MIB, ...backendOptions });
  const disk = new Disk(backend, { bufferBytes: ARENA, ...options });
  return { backend, disk };
}

/** A memory with room for a device at `base`, and a page more. */
function roomAt(base: number, virtqueues = 0, shared = false): WebAssembly.Memory {
  const bytes = base + footprintBytes({ base, virtqueues, arenaBytes: ARENA });
  const initial = Math.ceil(bytes / PAGE) + 1;
  return new WebAssembly.Memory({ initial, maximum: initial + 64, shared });
}

function filled(length: number, value: number): Uint8Array {
  return new Uint8Array(length).fill(value);
}

async function roundTrip(disk: Disk, at: number): Promise<boolean> {
  await disk.write(at, filled(5000, at + 1));
  const back = await disk.read(at, 5000);
  return back.every((byte) => byte === at + 1);
}

describe('a disk that moves', () => {
  for (const shared of [false, true]) {
    it(`keeps counters and what is stable, ${shared ? 'shared' : 'unshared'}`, async () => {
      const { backend, disk } = setUp({ cache: 'writeback' });
      await disk.write(0, filled(4096, 7));
      await disk.flush();
      await disk.setWce(false);
      const before = disk.stats();
      const memory = roomAt(64, 3, shared);
      disk.device.moveTo({ memory, base: 64, virtqueues: 3, arenaBytes: ARENA });
      expect(disk.stats()).toEqual(before);
      expect(disk.wce).toBe(false);
      // F3: everything was stable before the move, and still is.
      const syncs = backend.log.filter(({ op }) => op === 'sync').length;
      await disk.flush();
      expect(backend.log.filter(({ op }) => op === 'sync').length).toBe(syncs);
      expect((await disk.read(0, 4096)).every((byte) => byte === 7)).toBe(true);
      expect(disk.device.bytes.buffer).toBe(memory.buffer);
      await disk.close();
    });
  }

  it('stays latched', async () => {
    const { backend, disk } = setUp();
    backend.fail('sync', { errno: 5 });
    await expect(disk.flush()).rejects.toThrow();
    disk.device.moveTo({ arenaBytes: ARENA });
    await expect(disk.flush()).rejects.toMatchObject({ code: 'ERR_SLUICE_FLUSH_LATCHED' });
  });

  it('owes its flush still', async () => {
    const { backend, disk } = setUp();
    await disk.flush();
    await disk.write(0, filled(512, 1));
    disk.device.moveTo({ arenaBytes: ARENA });
    await disk.flush();
    expect(backend.stable[0]).toBe(1);
  });

  it('moves within one memory, over its own place, and back to one of its own', async () => {
    const { disk } = setUp({ module: debug });
    const memory = roomAt(4096, 1);
    disk.device.moveTo({ memory, base: 0, arenaBytes: ARENA });
    disk.device.moveTo({ memory, base: 4096, virtqueues: 1, arenaBytes: ARENA });
    expect(disk.device.engine.load(REGION_SIZE + DEVICE_QUEUE_COUNT)).toBe(1);
    expect(await roundTrip(disk, 100)).toBe(true);
    disk.device.moveTo({ arenaBytes: ARENA });
    expect(await roundTrip(disk, 200)).toBe(true);
    expect(disk.device.bytes.buffer).not.toBe(memory.buffer);
    await disk.close();
  });

  it('leaves every byte alone that is not in its footprint', async () => {
    const { disk } = setUp();
    const base = 3 * PAGE;
    const memory = roomAt(base, 2);
    const bytes = new Uint8Array(memory.buffer).fill(0xa5);
    disk.device.moveTo({ memory, base, virtqueues: 2, arenaBytes: ARENA });
    expect(await roundTrip(disk, 100)).toBe(true);
    const end = base + footprintBytes({ base, virtqueues: 2, arenaBytes: ARENA });
    expect(bytes.subarray(0, base).every((byte) => byte === 0xa5)).toBe(true);
    expect(bytes.subarray(end).every((byte) => byte === 0xa5)).toBe(true);
  });

  it('refuses while anything is in flight, and can move after', async () => {
    const { backend, disk } = setUp({}, { hold: true });
    const read = disk.read(0, 512);
    expect(() => disk.device.moveTo({ arenaBytes: ARENA })).toThrow(
      'the disk cannot move to a memory now: 1 of its requests are in flight; await them first',
    );
    await new Promise(setImmediate);
    backend.releaseAll();
    await read;
    const address = disk.device.arena.allocate(4096);
    const move = (): void => disk.device.moveTo({ arenaBytes: ARENA });
    expect(move).toThrow(/a client is in the middle of a request/);
    disk.device.arena.release(address, 4096);
    move();
  });

  it('keeps its buffers as long as it is served', () => {
    const { disk } = setUp({ bufferBytes: 2 * ARENA });
    const detach = disk.attach({ close: () => Promise.resolve() });
    const move = (arenaBytes: number): void => disk.device.moveTo({ arenaBytes });
    expect(() => move(ARENA)).toThrow(/give arenaBytes: 131072, or serve it later/);
    move(4 * ARENA);
    detach();
    move(ARENA);
  });
});

describe('a place', () => {
  const wrong: readonly [what: string, place: Partial<Place>, text: RegExp][] = [
    ['an odd base', { base: 32 }, /base must be a multiple of 64, not 32/],
    ['a base that is no number', { base: Number.NaN }, /base must be a whole number/],
    ['too many queues', { virtqueues: 64 }, /virtqueues must be .* 0 to 63, not 64/],
    ['an odd arena', { arenaBytes: 100_000 }, /arenaBytes must be a power of two/],
  ];
  for (const [what, place, text] of wrong) {
    it(`is refused with ${what}, and nothing has moved`, async () => {
      const { disk } = setUp();
      const memory = roomAt(0, 2);
      expect(() => disk.device.moveTo({ memory, arenaBytes: ARENA, ...place })).toThrow(text);
      expect(await roundTrip(disk, 0)).toBe(true);
      expect(disk.device.bytes.buffer).not.toBe(memory.buffer);
    });
  }

  it('is refused in a memory that is too small, which says how much is needed', () => {
    const { disk } = setUp();
    const memory = new WebAssembly.Memory({ initial: 4 });
    const needed = footprintBytes({ base: 128, virtqueues: 1, arenaBytes: ARENA });
    expect(() =>
      disk.device.moveTo({ memory, base: 128, virtqueues: 1, arenaBytes: ARENA }),
    ).toThrow(`it needs ${needed} bytes from there, so ${needed + 128} in all`);
  });

  it('has exactly the footprint that footprintBytes says', async () => {
    for (const base of [0, 64, 4096, 4096 + 64]) {
      const { disk } = setUp();
      const bytes = base + footprintBytes({ base, virtqueues: 5, arenaBytes: ARENA });
      expect(bytes % 4096).toBe(0);
      const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE) });
      disk.device.moveTo({ memory, base, virtqueues: 5, arenaBytes: ARENA });
      expect(disk.device.engine.exports.deviceSize(5)).toBe(
        footprintBytes({ virtqueues: 5, arenaBytes: ARENA }) -
          footprintBytes({ arenaBytes: ARENA }) -
          padding(disk.device.engine.exports.deviceSize(5)),
      );
      expect(await roundTrip(disk, 10)).toBe(true);
    }
  });
});

/** What page alignment adds to a device region behind an engine's, which is whole pages. */
function padding(deviceBytes: number): number {
  expect(REGION_SIZE % 4096).toBe(0);
  return Math.ceil(deviceBytes / 4096) * 4096 - deviceBytes;
}

describe('a memory that grows', () => {
  for (const shared of [false, true]) {
    it(`keeps a disk working, ${shared ? 'shared' : 'unshared'}`, async () => {
      const { backend, disk } = setUp({ module: shared ? undefined : debug }, { hold: true });
      backend.volatile.fill(9);
      const memory = roomAt(0, 1, shared);
      disk.device.moveTo({ memory, virtqueues: 1, arenaBytes: ARENA });
      const reads = [disk.read(0, 4096), disk.read(8192, 20_000)];
      await new Promise(setImmediate);
      memory.grow(1);
      const status = disk.blockStatus(0, 4096).next();
      await new Promise(setImmediate);
      memory.grow(2);
      backend.hold = false;
      backend.releaseAll();
      const [first, second] = await Promise.all(reads);
      expect(first?.every((byte) => byte === 9)).toBe(true);
      expect(second?.every((byte) => byte === 9)).toBe(true);
      expect(await status).toMatchObject({ value: { offset: 0, length: 4096, kind: 'data' } });
      expect(disk.device.bytes.length).toBe(memory.buffer.byteLength);
      memory.grow(1);
      expect(await roundTrip(disk, 30)).toBe(true);
      await disk.close();
    });
  }
});

describe('the inlined builds', () => {
  it('export all that an engine must', () => {
    expect(missingExports(inlinedModule())).toEqual([]);
    expect(missingExports(inlinedSharedModule())).toEqual([]);
  });
});
