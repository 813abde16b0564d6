// Whose memory, whose write cache, whose turn: what a device and its disk owe each other.

import { afterEach, describe, expect, it } from 'vitest';
import { VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH } from '../../src/abi/virtio-blk.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/abi/virtio-ring.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import type { DiskOptions } from '../../src/disk-types.ts';
import { footprintBytes } from '../../src/place.ts';
import { BlkDriver, GuestMemory, SplitDriver } from '../../src/testing/guest/index.ts';
import { createVirtioBlk } from '../../src/virtio/create-virtio-blk.ts';
import type { VirtioBlk } from '../../src/virtio/virtio-blk.ts';
import { accept, turn } from './fake-queues.ts';

const MIB = 1 << 20;
const FEATURES =
  (1n << BigInt(VIRTIO_F_VERSION_1)) |
  (1n << BigInt(VIRTIO_BLK_F_FLUSH)) |
  (1n << BigInt(VIRTIO_BLK_F_CONFIG_WCE));
/** A WebAssembly module that imports what nobody has. */
const NO_ENGINE = Buffer.from('0061736d01000000010401600000020701016501660000', 'hex');
const disks: Disk[] = [];
const backends: MemoryBackend[] = [];

afterEach(async () => {
  for (const backend of backends.splice(0)) {
    backend.hold = false;
    backend.releaseAll();
  }
  await Promise.allSettled(disks.splice(0).map((disk) => disk.close()));
});

function openDisk(options: DiskOptions = {}, hold = false) {
  const backend = new MemoryBackend({ sizeBytes: MIB, hold });
  const disk = new Disk(backend, { bufferBytes: 65_536, ...options });
  disks.push(disk);
  backends.push(backend);
  return { backend, disk };
}

function emulatorMemory(): WebAssembly.Memory {
  const bytes = 2 * MIB + footprintBytes({ virtqueues: 1 });
  return new WebAssembly.Memory({ initial: Math.ceil(bytes / 65_536) });
}

/** A driver that has said DRIVER_OK, on a ring that the registers name. */
function boot(blk: VirtioBlk, memory: GuestMemory, features = FEATURES): BlkDriver {
  const queue = new SplitDriver({ memory, size: 16 });
  blk.writeStatus(3);
  accept(blk, features);
  blk.writeStatus(11);
  blk.registers.setSize(0, 16);
  for (const area of ['desc', 'driver', 'device'] as const) {
    blk.registers.setAddress(0, area, queue[area]);
  }
  blk.registers.enable(0);
  blk.writeStatus(15);
  expect(blk.status).toBe(15);
  return new BlkDriver({ queue });
}

/** Until everything that the driver has asked for is answered. */
async function finish(blk: VirtioBlk, driver: BlkDriver): Promise<void> {
  if (driver.publish()) blk.notify(0);
  while (driver.queue.inFlight > 0) {
    driver.poll();
    await turn();
  }
}

describe('the memory of an emulator', () => {
  it('is the emulator’s again when the device is closed', async () => {
    const { disk } = openDisk();
    const memory = emulatorMemory();
    const ram = { address: 0, sizeBytes: MIB };
    await disk.write(0, new Uint8Array(512).fill(5));
    const blk = createVirtioBlk(disk, { memory, base: 2 * MIB, ram });
    await blk.close();
    new Uint8Array(memory.buffer).fill(0xff);
    await disk.write(512, new Uint8Array(512).fill(6));
    expect([(await disk.read(0, 1))[0], (await disk.read(512, 1))[0]]).toEqual([5, 6]);
    expect(disk.device.engine.memory).not.toBe(memory);
  });

  it('is never the disk’s when the device is refused', async () => {
    const { disk } = openDisk();
    const memory = emulatorMemory();
    const create = (address: number) =>
      createVirtioBlk(disk, { memory, base: 2 * MIB, ram: { address, sizeBytes: MIB } });
    expect(() => create(2 * MIB)).toThrow(/a disk lives at/);
    new Uint8Array(memory.buffer).fill(0xff);
    await disk.write(0, new Uint8Array(512).fill(5));
    expect((await disk.read(0, 1))[0]).toBe(5);
    await create(0).close();
  });

  it('leaves a server the buffers that its clients were told of', async () => {
    const { disk } = openDisk();
    const blk = createVirtioBlk(disk, { ramBytes: MIB, arenaBytes: MIB });
    const { largestBytes } = disk.device.arena;
    const leave = disk.attach({ close: () => Promise.resolve() });
    await blk.close();
    expect(disk.device.arena.largestBytes).toBe(largestBytes);
    leave();
    await createVirtioBlk(disk, { ramBytes: MIB, arenaBytes: MIB }).close();
    expect(disk.device.arena.largestBytes).toBeLessThan(largestBytes);
  });

  it('is left although requests of the disk never stop', async () => {
    const { backend, disk } = openDisk({}, true);
    const memory = emulatorMemory();
    const blk = createVirtioBlk(disk, { memory, base: 2 * MIB });
    const answering = setInterval(() => backend.releaseAll(), 1);
    const over = new AbortController();
    const write = async (): Promise<void> => {
      while (!over.signal.aborted) await disk.write(0, new Uint8Array(512));
    };
    const writing = write();
    try {
      await blk.close();
      expect(disk.device.engine.memory).not.toBe(memory);
    } finally {
      over.abort();
      await writing;
      clearInterval(answering);
    }
  });

  it('is no place for a second device while the first is being closed', async () => {
    const { disk } = openDisk();
    const options = { memory: emulatorMemory(), base: 2 * MIB };
    const blk = createVirtioBlk(disk, options);
    const { arena } = disk.device;
    const buffer = arena.allocate(4096);
    const closing = blk.close();
    await turn();
    arena.release(buffer, 4096);
    expect(() => createVirtioBlk(disk, options)).toThrow(
      expect.objectContaining({ code: 'ERR_SLUICE_BUSY' }),
    );
    await closing;
    await createVirtioBlk(disk, options).close();
  });

  it('stays the disk’s when a move to another place fails', async () => {
    const { device } = openDisk().disk;
    const other = openDisk().disk.device;
    const memory = new WebAssembly.Memory({ initial: 200 });
    device.moveTo({ memory, base: 0 });
    const module = new WebAssembly.Module(NO_ENGINE);
    expect(() => device.moveTo({ memory, base: 6 * MIB, module })).toThrow(TypeError);
    expect([device.engine.base, device.isHome]).toEqual([0, false]);
    expect(() => other.moveTo({ memory, base: 0 })).toThrow(/not free/);
    other.moveTo({ memory, base: 6 * MIB });
  });

  it('has room for two disks, but not in one place', async () => {
    const memory = new WebAssembly.Memory({ initial: 512 });
    const first = openDisk().disk;
    const second = openDisk().disk;
    const base = 8 * MIB;
    createVirtioBlk(first, { memory, base });
    expect(() => createVirtioBlk(second, { memory, base: base + MIB })).toThrow(/not free/);
    createVirtioBlk(second, { memory, base: 20 * MIB });
    await first.close();
    await second.close();
  });

  it('is not touched for a disk that is closed', async () => {
    const { disk } = openDisk();
    await disk.close();
    expect(() => createVirtioBlk(disk, { ramBytes: MIB })).toThrow(
      expect.objectContaining({ code: 'ERR_SLUICE_CLOSED' }),
    );
  });
});

describe('the write cache', () => {
  it('of a writethrough disk stays off for its owner, whatever the guest turns on', async () => {
    const { backend, disk } = openDisk({ cache: 'writethrough' });
    const blk = createVirtioBlk(disk, { ramBytes: MIB });
    boot(blk, new GuestMemory(blk.ram!));
    expect(await blk.writeConfig(32, Uint8Array.of(1))).toBe(true);
    expect([blk.wce, disk.wce]).toEqual([true, false]);
    await disk.write(0, new Uint8Array(512).fill(9));
    expect(backend.stable[0]).toBe(9);
  });

  it.each([
    ['that has no FLUSH', 1n << BigInt(VIRTIO_F_VERSION_1), undefined],
    ['that has turned it off', FEATURES, 0],
  ])('stays off for a guest %s when the owner turns it on', async (_, features, wish) => {
    for (const before of [true, false]) {
      const { backend, disk } = openDisk();
      await disk.setWce(before);
      const blk = createVirtioBlk(disk, { ramBytes: MIB });
      const driver = boot(blk, new GuestMemory(blk.ram!), features);
      if (wish !== undefined) await blk.writeConfig(32, Uint8Array.of(wish));
      await disk.setWce(true);
      const write = driver.write(0, new Uint8Array(512).fill(7));
      await finish(blk, driver);
      expect([write.status, backend.stable[0]]).toEqual([0, 7]);
      await blk.close();
      expect(disk.wce).toBe(true);
    }
  });

  it('is off after the guest’s "off", even with an older "on" of the owner in line', async () => {
    const { backend, disk } = openDisk();
    const blk = createVirtioBlk(disk, { ramBytes: MIB, arenaBytes: 65_536 });
    const driver = boot(blk, new GuestMemory(blk.ram!));
    backend.hold = true;
    const { largestBytes } = disk.device.arena;
    const reads = Array.from({ length: 6 }, () => disk.read(0, largestBytes));
    const ownerOn = disk.setWce(true);
    await turn();
    const guestOff = blk.writeConfig(32, Uint8Array.of(0));
    await turn();
    backend.hold = false;
    backend.releaseAll();
    await Promise.all([...reads, ownerOn, guestOff]);
    const write = driver.write(0, new Uint8Array(512).fill(7));
    await finish(blk, driver);
    expect([write.status, disk.wce, backend.stable[0]]).toEqual([0, false, 7]);
  });

  it('is off after the guest’s "off", even with an "on" of the owner just before it', async () => {
    const { backend, disk } = openDisk();
    await disk.setWce(false);
    const blk = createVirtioBlk(disk, { ramBytes: MIB });
    const driver = boot(blk, new GuestMemory(blk.ram!));
    await blk.writeConfig(32, Uint8Array.of(1));
    const ownerOn = disk.setWce(true);
    await blk.writeConfig(32, Uint8Array.of(0));
    await ownerOn;
    const write = driver.write(0, new Uint8Array(512).fill(7));
    await finish(blk, driver);
    expect([write.status, disk.wce, backend.stable[0]]).toEqual([0, false, 7]);
  });

  it('is off for what the owner writes between an "off" and an "on", all in one line', async () => {
    const { backend, disk } = openDisk();
    backend.hold = true;
    const read = disk.read(0, 512);
    await turn();
    const gate = disk.device.quiesced(() => Promise.resolve());
    const off = disk.setWce(false);
    const write = disk.write(0, new Uint8Array(512).fill(8)).then(() => backend.stable[0]);
    const on = disk.setWce(true);
    await turn();
    backend.hold = false;
    backend.releaseAll();
    const [, , , stable] = await Promise.all([read, gate, off, write, on]);
    expect([stable, disk.wce]).toEqual([8, true]);
  });

  it('is off after the owner’s "off", even with an "on" of each in line before it', async () => {
    const { backend, disk } = openDisk();
    const blk = createVirtioBlk(disk, { ramBytes: MIB });
    backend.hold = true;
    const read = disk.read(0, 512);
    await turn();
    const gate = disk.device.quiesced(() => Promise.resolve());
    const wishes = [disk.setWce(true), blk.queues.setWce(true), disk.setWce(false)];
    await turn();
    backend.hold = false;
    backend.releaseAll();
    await Promise.all([read, gate, ...wishes]);
    await disk.write(0, new Uint8Array(512).fill(9));
    expect([disk.wce, backend.stable[0]]).toEqual([false, 9]);
  });
});

describe('a reset', () => {
  it('is over at once when only a flush is in flight, for drivers that do not wait', () => {
    const { backend, disk } = openDisk({}, true);
    const blk = createVirtioBlk(disk, { ramBytes: MIB });
    const driver = boot(blk, new GuestMemory(blk.ram!));
    driver.flush();
    driver.publish();
    blk.notify(0);
    expect(backend.held.map(({ op }) => op)).toEqual(['sync']);
    blk.writeStatus(0);
    expect(blk.status).toBe(0);
    boot(blk, new GuestMemory(blk.ram!));
  });
});

it('a kick has an end, however fast new work comes', async () => {
  const { disk } = openDisk();
  let pumps = 0;
  disk.device.afterPump = () => {
    pumps += 1;
    if (pumps < 1000) disk.device.kick();
  };
  disk.device.kick();
  expect(pumps).toBeLessThan(100);
  for (let turns = 0; turns < 1000; turns++) await turn();
  expect(pumps).toBe(1000);
  disk.device.afterPump = undefined;
});

it('timers have their turn, however fast the answers of one call after another come', async () => {
  const { disk } = openDisk();
  const over = new AbortController();
  setTimeout(() => over.abort(), 1);
  while (!over.signal.aborted) await disk.read(0, 512);
});

it('saving is refused while an error has stopped a request', async () => {
  const { backend, disk } = openDisk();
  const blk = createVirtioBlk(disk, { ramBytes: MIB, readError: 'stop' });
  const driver = boot(blk, new GuestMemory(blk.ram!));
  backend.fail('read');
  driver.read(0, 512);
  driver.publish();
  blk.notify(0);
  await turn();
  await expect(blk.save()).rejects.toMatchObject({ code: 'ERR_SLUICE_BUSY' });
  blk.resume();
  await blk.save();
});

it('a copied guest goes on where its rings are', async () => {
  const { disk } = openDisk();
  const guest = new ArrayBuffer(MIB);
  const memory = new GuestMemory(guest);
  const first = createVirtioBlk(disk, { guest });
  const driver = boot(first, memory);
  for (let i = 0; i < 3; i++) driver.write(i, new Uint8Array(512).fill(i + 1));
  await finish(first, driver);
  const state = await first.save();
  await first.close();
  const second = createVirtioBlk(disk, { guest });
  await second.restore(JSON.parse(JSON.stringify(state)));
  second.resume();
  const read = driver.read(1, 512);
  await finish(second, driver);
  expect([read.status, read.data()[0]]).toEqual([0, 2]);
});
