// createVirtioBlk over the real engine: memory, options, and a guest that drives it by registers.

import { afterEach, describe, expect, it } from 'vitest';
import { MemoryBackend, type MemoryBackendOptions } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import type { DiskOptions } from '../../src/disk-types.ts';
import { footprintBytes } from '../../src/place.ts';
import { BlkDriver, createDriverQueue, GuestMemory } from '../../src/testing/guest/index.ts';
import { createVirtioBlk } from '../../src/virtio/create-virtio-blk.ts';
import type { VirtioBlk } from '../../src/virtio/virtio-blk.ts';
import type { VirtioBlkOptions } from '../../src/virtio/virtio-blk-options.ts';
import { accept, DRIVER_OK, NEEDS_RESET, turn } from './fake-queues.ts';

const MIB = 1 << 20;
const RAM_BYTES = MIB;
const ARENA_BYTES = 65_536;
const disks: Disk[] = [];

function openDisk(options: DiskOptions = {}, backendOptions: Partial<MemoryBackendOptions> = {}) {
  const backend = new MemoryBackend({ sizeBytes: MIB, ...backendOptions });
  const disk = new Disk(backend, { bufferBytes: ARENA_BYTES, ...options });
  disks.push(disk);
  return { backend, disk };
}

afterEach(async () => {
  await Promise.all(disks.splice(0).map((disk) => disk.close()));
});

/** A disk with a device over an emulator's memory: guest RAM first, the engine behind it. */
function setUp(options: Partial<VirtioBlkOptions> = {}, diskOptions: DiskOptions = {}) {
  const { backend, disk } = openDisk(diskOptions);
  const base = RAM_BYTES;
  const virtqueues = options.queues ?? 1;
  const footprint = footprintBytes({ base, virtqueues, arenaBytes: ARENA_BYTES });
  const memory = new WebAssembly.Memory({ initial: Math.ceil((base + footprint) / 65_536) });
  const told: string[] = [];
  const errors: Error[] = [];
  const blk = createVirtioBlk(disk, {
    memory,
    base,
    arenaBytes: ARENA_BYTES,
    ram: { address: 0, sizeBytes: RAM_BYTES },
    onInterrupt: (kind, queue) => told.push(`${kind} ${queue}`),
    onError: (error) => errors.push(error),
    ...options,
  });
  const ram = { guestAddress: 0n, address: 0, sizeBytes: RAM_BYTES };
  const guest = new GuestMemory(() => memory.buffer, [ram]);
  return { backend, disk, blk, memory, guest, told, errors };
}

it.each([{}, undefined, Promise.resolve()])('puts no device on %j, which is no disk', (value) => {
  expect(() => createVirtioBlk(value as never, { ramBytes: MIB })).toThrow(
    /^createVirtioBlk needs a Disk, as openDisk resolves with, not (an? \w+|undefined)$/,
  );
});

/** A driver from reset to DRIVER_OK, by the registers of mmio. */
function boot(blk: VirtioBlk, guest: GuestMemory, packed = false): BlkDriver {
  const writel = (value: number, offset: number): void => blk.mmio.write(offset, 4, value);
  const { mmio } = blk;
  const size = 64;
  const features = { indirect: true, eventIdx: true };
  const queue = createDriverQueue(packed, { memory: guest, size, features });
  writel(0, 0x070);
  writel(1, 0x070);
  writel(3, 0x070);
  accept(blk, packed ? blk.features.offered : blk.features.offered & ~(1n << 34n));
  writel(11, 0x070);
  expect(mmio.read(0x070, 4)).toBe(11);
  writel(0, 0x030);
  writel(size, 0x038);
  for (const [register, address] of [
    [0x080, queue.desc],
    [0x090, queue.driver],
    [0x0a0, queue.device],
  ] as const) {
    writel(Number(address & 0xffff_ffffn), register);
    writel(Number(address >> 32n), register + 4);
  }
  writel(1, 0x044);
  writel(15, 0x070);
  return new BlkDriver({ queue });
}

function kick(blk: VirtioBlk, driver: BlkDriver): void {
  if (driver.publish()) blk.mmio.write(0x050, 4, driver.queue.notification(0));
}

async function finish(driver: BlkDriver): Promise<void> {
  for (let turns = 0; driver.queue.inFlight > 0 && turns < 100; turns++) {
    await turn();
    driver.poll();
  }
}

describe.each([false, true])('a guest with a packed ring: %s', (packed) => {
  it('writes, flushes, reads, and finds out who it is', async () => {
    const { backend, blk, guest, told } = setUp({ serial: 'sluice-1' });
    const driver = boot(blk, guest, packed);
    expect(blk.status).toBe(DRIVER_OK);
    const data = new Uint8Array(4096).fill(7);
    const write = driver.write(8, data);
    kick(blk, driver);
    await finish(driver);
    const flush = driver.flush();
    const read = driver.read(8, 4096);
    const id = driver.getId();
    kick(blk, driver);
    await finish(driver);
    expect([write, flush, read, id].map(({ status }) => status)).toEqual([0, 0, 0, 0]);
    expect(read.data()).toEqual(data);
    expect(new TextDecoder().decode(id.data().subarray(0, 9))).toBe('sluice-1\0');
    expect(backend.log.some(({ op }) => op === 'sync')).toBe(true);
    expect(told).toContain('used 0');
    expect(blk.isr & 1).toBe(1);
  });

  it('goes on after save and restore, in another memory', async () => {
    const first = setUp();
    const driver = boot(first.blk, first.guest, packed);
    driver.write(0, new Uint8Array(512).fill(1));
    kick(first.blk, driver);
    await finish(driver);
    const state = JSON.parse(JSON.stringify(await first.blk.save())) as unknown;

    const second = setUp();
    await second.blk.restore(state);
    new Uint8Array(second.memory.buffer).set(first.guest.u8.subarray(0, RAM_BYTES));
    second.blk.resume();
    // The first device goes on as well, with the same driver.
    first.blk.resume();
    const read = driver.read(0, 512);
    kick(first.blk, driver);
    await finish(driver);
    expect(read.status).toBe(0);
    expect(read.data()).toEqual(new Uint8Array(512).fill(1));
    expect(second.blk.status).toBe(DRIVER_OK);
    expect(second.errors).toEqual([]);
  });
});

describe('the driver and the disk', () => {
  it('a ring with a fault sets NEEDS_RESET, and a reset mends it', async () => {
    const { blk, guest, told, errors } = setUp();
    const driver = boot(blk, guest);
    driver.raw(0, { alter: (chain) => chain.map((part) => ({ ...part, address: 1n << 40n })) });
    kick(blk, driver);
    await turn();
    expect(blk.status).toBe(DRIVER_OK | NEEDS_RESET);
    expect(told).toContain('config -1');
    expect(errors[0]).toMatchObject({ code: 'ERR_SLUICE_VIRTQUEUE' });
    await blk.reset();
    const again = boot(blk, guest);
    const flush = again.flush();
    kick(blk, again);
    await finish(again);
    expect(flush.status).toBe(0);
  });

  it('V86: after a reset with reads in flight, nothing of the guest is touched', async () => {
    const { backend, blk, guest, told } = setUp();
    backend.hold = true;
    const driver = boot(blk, guest);
    for (let at = 0; at < 8; at++) driver.read(at * 64, 512);
    kick(blk, driver);
    await turn();
    blk.mmio.write(0x070, 4, 0);
    expect(blk.mmio.read(0x070, 4)).toBe(DRIVER_OK);
    backend.hold = false;
    backend.releaseAll();
    await blk.settled();
    expect(blk.mmio.read(0x070, 4)).toBe(0);
    const before = Buffer.from(guest.u8.slice(0, RAM_BYTES));
    await turn();
    expect(before.equals(guest.u8.subarray(0, RAM_BYTES))).toBe(true);
    expect(driver.poll()).toEqual([]);
    expect(told).toEqual([]);
  });

  it('D3: with nothing in flight a driver starts over without waiting', async () => {
    const { blk, guest } = setUp();
    boot(blk, guest);
    const driver = boot(blk, guest);
    const flush = driver.flush();
    kick(blk, driver);
    await finish(driver);
    expect(flush.status).toBe(0);
  });

  it('the write cache follows the byte, and writes are stable once it reads 0', async () => {
    const { backend, disk, blk, guest } = setUp();
    const driver = boot(blk, guest);
    expect([blk.mmio.read(0x120, 1), disk.wce]).toEqual([1, true]);
    blk.mmio.write(0x120, 1, 0);
    expect(blk.mmio.read(0x120, 1)).toBe(0);
    await turn();
    expect(disk.wce).toBe(false);
    const from = backend.log.length;
    driver.write(0, new Uint8Array(512));
    kick(blk, driver);
    await finish(driver);
    const stable = backend.log.slice(from).some(({ op, stable }) => stable || op === 'sync');
    expect(stable).toBe(true);
  });

  it('a new size of the disk is told to the driver', async () => {
    const { disk, blk, guest, told } = setUp();
    boot(blk, guest);
    await disk.resize(2 * MIB);
    expect(blk.mmio.read(0x100, 4)).toBe(4096);
    expect(blk.mmio.read(0x0fc, 4)).toBe(1);
    expect(told).toEqual(['config -1']);
  });

  it('a read-only disk offers RO', () => {
    const { disk } = openDisk({}, { readOnly: true });
    const blk = createVirtioBlk(disk, { ramBytes: RAM_BYTES, arenaBytes: ARENA_BYTES });
    expect(blk.features.offered & (1n << 5n)).not.toBe(0n);
  });

  it.each(['off', 'order'] as const)('BARRIER with barrier: %s', (barrier) => {
    const { blk } = setUp({ legacy: true }, { barrier });
    expect(blk.features.offered & 1n).toBe(barrier === 'off' ? 0n : 1n);
  });
});

describe('memory', () => {
  it('ramBytes makes one, with the guest at address 0', async () => {
    const { disk } = openDisk();
    const blk = createVirtioBlk(disk, { ramBytes: RAM_BYTES, arenaBytes: ARENA_BYTES });
    const { ram } = blk;
    if (ram === undefined) throw new Error('there is no guest RAM');
    expect(ram).toHaveLength(RAM_BYTES);
    const place = { guestAddress: 0n, address: ram.byteOffset, sizeBytes: RAM_BYTES };
    const guest = new GuestMemory(ram.buffer, [place]);
    const driver = boot(blk, guest);
    const flush = driver.flush();
    kick(blk, driver);
    await finish(driver);
    expect(flush.status).toBe(0);
  });

  it('the disk goes on in its new memory', async () => {
    const { disk } = openDisk();
    await disk.write(0, new Uint8Array(512).fill(3));
    createVirtioBlk(disk, { ramBytes: RAM_BYTES, arenaBytes: ARENA_BYTES });
    expect((await disk.read(0, 512))[0]).toBe(3);
  });

  it('a second device is refused until the first is closed', async () => {
    const { disk, blk } = setUp();
    const again = (): VirtioBlk =>
      createVirtioBlk(disk, { ramBytes: RAM_BYTES, arenaBytes: ARENA_BYTES });
    expect(again).toThrow(expect.objectContaining({ code: 'ERR_SLUICE_BUSY' }));
    await blk.close();
    expect(again().status).toBe(0);
  });

  it('closing the disk closes the device', async () => {
    const { disk, blk, guest } = setUp();
    boot(blk, guest);
    await disk.close();
    expect(blk.status).toBe(0);
    blk.mmio.write(0x070, 4, 1);
    expect(blk.status).toBe(0);
  });

  it('guest RAM outside of the memory is refused, and the disk stays usable', async () => {
    const ram = { address: 0, sizeBytes: 2 ** 31 };
    const { disk } = openDisk();
    const memory = new WebAssembly.Memory({ initial: 64 });
    const options = { memory, base: 0, arenaBytes: ARENA_BYTES };
    expect(() => createVirtioBlk(disk, { ...options, ram })).toThrow(
      expect.objectContaining({ code: 'ERR_SLUICE_VIRTQUEUE' }),
    );
    await turn();
    expect(createVirtioBlk(disk, options).status).toBe(0);
  });
});

describe('options', () => {
  const memory = new WebAssembly.Memory({ initial: 1 });

  it.each<[Record<string, unknown>, string]>([
    [{ ramBytes: undefined }, 'give one of memory, ramBytes and guest'],
    [{ memory, base: 0 }, 'give one of memory, ramBytes and guest'],
    [{ ramBytes: undefined, memory }, 'base must say where'],
    [{ ramBytes: undefined, memory: {}, base: 0 }, 'memory must be a WebAssembly.Memory'],
    [{ ramBytes: undefined, memory, base: 0 }, 'a memory of 65536 bytes has no room'],
    [{ ramBytes: undefined, memory, base: 0, ram: 7 }, 'ram must be { address, sizeBytes }'],
    [
      { ramBytes: undefined, memory, base: 0, ram: [{ address: 0, sizeBytes: 1 }] },
      'guestAddress must be a bigint',
    ],
    [{ base: 0 }, 'base and ram go with memory'],
    [{ ramBytes: 0 }, 'ramBytes must be a whole number from 1'],
    [{ ramBytes: 2 ** 32 }, 'ramBytes must be a whole number from 1'],
    [{ arenaBytes: 100_000 }, 'arenaBytes must be a power of two'],
    [{ queues: 0 }, 'queues must be a whole number from 1 to 63'],
    [{ queues: 64 }, 'queues must be a whole number from 1 to 63'],
    [{ queueSizeMax: 100 }, 'queueSizeMax must be a power of two from 4 to 32768'],
    [{ queueSizeMax: 2 }, 'queueSizeMax must be a power of two from 4 to 32768'],
    [{ segMax: 1023 }, 'segMax must be a whole number from 1 to 1022'],
    [{ sizeMaxBytes: 100 }, 'sizeMaxBytes must be a whole number from 512'],
    [{ blockSizeBytes: 1000 }, 'blockSizeBytes must be a power of two from 512 to 65536'],
    [{ blockSizeBytes: '4096' }, 'blockSizeBytes must be a power of two'],
    [{ serial: 'x'.repeat(21) }, 'serial must have at most 20 bytes of UTF-8, not 21'],
    [{ serial: 'é'.repeat(11) }, 'serial must have at most 20 bytes of UTF-8, not 22'],
    [{ serial: 'a\0b' }, 'serial must be a string without NUL'],
    [{ serial: 5 }, 'serial must be a string without NUL'],
    [{ legacy: 1 }, 'legacy must be true or false, not 1'],
    [{ features: { zoned: true } }, "there is no feature 'zoned'"],
    [{ features: 5 }, 'features must be an object'],
    [{ readError: 'enospc' }, "readError must be 'report', 'stop' or 'ignore'"],
    [{ writeError: 'panic' }, "writeError must be 'report', 'stop', 'ignore' or 'enospc'"],
    [{ onInterrupt: 'x' }, 'onInterrupt must be a function'],
  ])('%o is refused', (options, message) => {
    const { disk } = openDisk();
    const all = { ramBytes: RAM_BYTES, ...options } as VirtioBlkOptions;
    expect(() => createVirtioBlk(disk, all)).toThrow(
      expect.objectContaining({
        code: 'ERR_SLUICE_INVALID_ARGUMENT',
        message: expect.stringContaining(message) as string,
      }),
    );
  });

  it('guest memory that is no memory is refused', () => {
    const { disk } = openDisk();
    expect(() => createVirtioBlk(disk, { guest: [1, 2] as never })).toThrow(
      expect.objectContaining({ code: 'ERR_SLUICE_INVALID_ARGUMENT' }),
    );
  });
});
