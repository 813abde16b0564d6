// Disks in an emulator that does not run: plugging, ports, interrupts, resets, states, and drivers
// that break every rule. What a real guest does is in boot.test.ts.

import { fileURLToPath } from 'node:url';
import * as fc from 'fast-check';
import { rolldown } from 'rolldown';
import type { V86 } from 'v86';
import { afterEach, describe, expect, it } from 'vitest';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import { attachVirtioBlk, type V86VirtioBlkOptions } from '../../src/v86.ts';
import { createEmulator } from './guest.ts';
import { PciGuest } from './pci-guest.ts';

const MIB = 1 << 20;
const SMALL = { arenaBytes: 65_536 };
const NEEDS_RESET = 0x40;
/** The id of v86's network card, which has the same line as slot 13. */
const NETWORK = 5 << 3;
const disks: Disk[] = [];
const emulators: V86[] = [];
const code = (code: string) => expect.objectContaining({ code }) as Error;

afterEach(async () => {
  await Promise.all(disks.splice(0).map((disk) => disk.close()));
  await Promise.all(emulators.splice(0).map((emulator) => emulator.destroy()));
});

function makeDisk(sizeBytes = MIB) {
  const backend = new MemoryBackend({ sizeBytes });
  const disk = new Disk(backend, { bufferBytes: 65_536 });
  disks.push(disk);
  return { backend, disk };
}

function makeEmulator(): V86 {
  const emulator = createEmulator({ boots: false });
  emulators.push(emulator);
  return emulator;
}

it('attaches no disk that is none', async () => {
  const refused = attachVirtioBlk({} as V86, {} as Disk);
  await expect(refused).rejects.toMatchObject({
    code: 'ERR_SLUICE_INVALID_ARGUMENT',
    message: 'attachVirtioBlk needs a Disk, as openDisk resolves with, not an Object',
  });
});

async function setUp(options: V86VirtioBlkOptions = {}) {
  const emulator = makeEmulator();
  const { backend, disk } = makeDisk();
  const errors: Error[] = [];
  const onError = (error: Error): void => void errors.push(error);
  const blk = await attachVirtioBlk(emulator, disk, { ...SMALL, onError, ...options });
  const guest = await PciGuest.of(emulator);
  const [slot = 0] = guest.slots;
  return { emulator, backend, disk, blk, guest, slot, errors };
}

/** What is raised and lowered, by interrupt; true: up. */
function watchLines({ cpu }: PciGuest): Map<number, boolean> {
  const levels = new Map<number, boolean>();
  const pic = cpu as unknown as Record<string, (irq: number) => void>;
  for (const [name, level] of [
    ['device_raise_irq', true],
    ['device_lower_irq', false],
  ] as const) {
    const original = pic[name]!;
    pic[name] = (irq) => {
      levels.set(irq, level);
      original(irq);
    };
  }
  return levels;
}

describe.each([false, true])('a driver with a packed ring: %s', (packed) => {
  it('writes, flushes and reads through the ports', async () => {
    const { guest, slot, backend } = await setUp();
    const driver = guest.boot(slot, packed);
    const data = Uint8Array.from({ length: 8192 }, (_, index) => (index * 7) & 0xff);
    const write = driver.write(8, data);
    await guest.finish(slot, driver);
    const flush = driver.flush();
    const read = driver.read(8, 8192);
    await guest.finish(slot, driver);
    expect([write, flush, read].map(({ status }) => status)).toEqual([0, 0, 0]);
    expect(Buffer.compare(read.data(), data)).toBe(0);
    expect(backend.log.some(({ op }) => op === 'sync')).toBe(true);
  });
});

describe('attaching', () => {
  it('waits for the emulator, and again needs not', async () => {
    const emulator = makeEmulator();
    await attachVirtioBlk(emulator, makeDisk().disk, SMALL);
    await attachVirtioBlk(emulator, makeDisk().disk, SMALL);
    expect((await PciGuest.of(emulator)).slots).toEqual([13, 14]);
  });

  it('takes the slot that is asked for, and refuses one in use', async () => {
    const { emulator, guest } = await setUp({ slot: 20 });
    expect(guest.slots).toEqual([20]);
    for (const slot of [20, 0, 32, 1]) {
      const refused = attachVirtioBlk(emulator, makeDisk().disk, { ...SMALL, slot });
      await expect(refused).rejects.toThrow(code('ERR_SLUICE_INVALID_ARGUMENT'));
    }
  });

  it('as many disks as there are slots, then it is refused and the disk stays usable', async () => {
    const { emulator, guest } = await setUp();
    let refusal: unknown;
    let last = makeDisk().disk;
    while (refusal === undefined) {
      refusal = await attachVirtioBlk(emulator, last, SMALL).then(
        () => undefined,
        (error: unknown) => error,
      );
      if (refusal === undefined) last = makeDisk().disk;
    }
    expect(refusal).toMatchObject({ code: 'ERR_SLUICE_UNSUPPORTED' });
    expect(guest.slots.length).toBeGreaterThanOrEqual(15);
    await last.write(0, new Uint8Array(512));
  });

  it('the memory grows for the disk, and what a disk leaves is used again', async () => {
    const { emulator, guest, blk } = await setUp();
    const { buffer } = guest.cpu.wasm_memory;
    await blk.close();
    await attachVirtioBlk(emulator, makeDisk().disk, SMALL);
    expect(guest.cpu.wasm_memory.buffer).toBe(buffer);
    await attachVirtioBlk(emulator, makeDisk().disk, SMALL);
    expect(guest.cpu.wasm_memory.buffer.byteLength).toBeGreaterThan(buffer.byteLength);
  });

  it('a v86 without what is needed is refused by name', async () => {
    const { disk } = makeDisk();
    const nothing = {} as never;
    const refused = attachVirtioBlk(nothing, disk);
    await expect(refused).rejects.toThrow(code('ERR_SLUICE_UNSUPPORTED'));
    await expect(attachVirtioBlk(nothing, disk)).rejects.toThrow('add_listener, remove_listener');
    const { emulator } = await setUp();
    const { cpu } = (emulator as unknown as { v86: { cpu: object } }).v86;
    const older = Object.assign(Object.create(cpu) as object, { jit_dirty_cache: undefined });
    const other = Object.assign(Object.create(emulator) as V86, { v86: { cpu: older } });
    await expect(attachVirtioBlk(other, disk)).rejects.toThrow('lacks jit_dirty_cache;');
  });
});

describe('the module', () => {
  it('imports no package, and nothing of Node', async () => {
    const build = await rolldown({
      input: fileURLToPath(new URL('../../src/v86.ts', import.meta.url)),
      platform: 'browser',
      external: /^[^./]/,
    });
    const { output } = await build.generate();
    await build.close();
    const imports = output.flatMap((file) => (file.type === 'chunk' ? file.imports : ['?']));
    expect(imports).toEqual([]);
  });
});

describe('unplugging', () => {
  it.each(['device', 'disk'])('closing the %s empties slot and ports', async (which) => {
    let closed = 0;
    const { guest, slot, blk, disk } = await setUp({ onClosed: () => (closed += 1) });
    guest.boot(slot);
    const bar = guest.bar(slot);
    await (which === 'disk' ? disk.close() : blk.close());
    expect([guest.slots, closed]).toEqual([[], 1]);
    expect(guest.cpu.io.ports[bar]?.device).toBeUndefined();
    // v86 lets a write to a slot that never had a device throw.
    guest.writeConfig(slot, 0x10, 0x5000);
    guest.writeConfig(slot, 0x04, 7);
    expect(guest.config(slot, 0)).toBe(0xffff_ffff);
  });
});

describe('the BAR', () => {
  it('says how long it is, and works where it is moved to', async () => {
    const { guest, slot } = await setUp();
    const from = guest.bar(slot);
    guest.writeConfig(slot, 0x10, 0xffff_ffff);
    expect(guest.config(slot, 0x10)).toBe(0xffff_ff01);
    guest.writeConfig(slot, 0x10, 0xc100);
    expect(guest.bar(slot)).toBe(0xc100);
    const driver = guest.boot(slot);
    const flush = driver.flush();
    await guest.finish(slot, driver);
    expect([flush.status, guest.cpu.io.ports[from]?.device]).toEqual([0, undefined]);
  });
});

describe('the interrupt line', () => {
  it('is up while one of two disks that share it has something to tell', async () => {
    const { emulator, guest, slot } = await setUp();
    const other = slot + 4;
    await attachVirtioBlk(emulator, makeDisk().disk, { ...SMALL, slot: other });
    const levels = watchLines(guest);
    const drivers = [slot, other].map((at) => guest.boot(at));
    drivers.forEach((driver, index) => {
      driver.flush();
      guest.kick([slot, other][index]!, driver);
    });
    await new Promise(setImmediate);
    expect([...levels.values()]).toEqual([true]);
    expect(guest.read(slot, 0x40, 1)).toBe(1);
    expect([...levels.values()]).toEqual([true]);
    expect(guest.read(other, 0x40, 1)).toBe(1);
    expect([...levels.values()]).toEqual([false]);
  });

  it('stays up when a device of v86 lets go of it', async () => {
    const { guest, slot } = await setUp();
    const levels = watchLines(guest);
    const driver = guest.boot(slot);
    driver.flush();
    guest.kick(slot, driver);
    await new Promise(setImmediate);
    guest.cpu.devices.pci.lower_irq(NETWORK);
    expect([...levels.values()]).toContain(true);
    expect(guest.read(slot, 0x40, 1)).toBe(1);
    expect([...levels.values()]).not.toContain(true);
  });
});

describe('a reset of the machine', () => {
  it('resets the disk at once when nothing is in flight', async () => {
    const { emulator, guest, slot, blk } = await setUp();
    guest.boot(slot);
    emulator.restart();
    expect(blk.status).toBe(0);
    const driver = guest.boot(slot);
    const flush = driver.flush();
    await guest.finish(slot, driver);
    expect(flush.status).toBe(0);
  });

  it('E3: waits until the host has let go of guest memory, once', async () => {
    const { emulator, guest, slot, blk, backend } = await setUp();
    const driver = guest.boot(slot);
    backend.hold = true;
    driver.read(0, 4096);
    guest.kick(slot, driver);
    let reboots = 0;
    const { cpu } = guest;
    cpu.mem8[0xf_0000] = 1;
    const { load_bios: load } = cpu as unknown as { load_bios: () => void };
    Object.assign(cpu, { load_bios: () => ((reboots += 1), load.call(cpu)) });
    emulator.restart();
    emulator.restart();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect([reboots, blk.status]).toEqual([0, 15]);
    backend.hold = false;
    backend.releaseAll();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect([reboots, blk.status]).toEqual([1, 0]);
  });
});

describe('code that was compiled', () => {
  it('is forgotten where a read has landed, before the driver is told', async () => {
    const { guest, slot } = await setUp();
    const driver = guest.boot(slot);
    const dirty: (readonly [number, number, number])[] = [];
    const { cpu } = guest;
    const forget = cpu.jit_dirty_cache.bind(cpu);
    cpu.jit_dirty_cache = (start, end) => {
      driver.poll();
      dirty.push([start, end, driver.queue.inFlight]);
      forget(start, end);
    };
    const read = driver.read(0, 8192);
    await guest.finish(slot, driver);
    expect(read.status).toBe(0);
    const bytes = dirty.reduce((sum, [start, end]) => sum + end - start, 0);
    expect([bytes, dirty.every(([start]) => start >= MIB)]).toEqual([8193, true]);
    expect(dirty.map(([, , inFlight]) => inFlight)).toEqual(dirty.map(() => 1));
  });
});

describe('states', () => {
  it('E1: save waits for what is in flight; another emulator goes on from there', async () => {
    const { emulator, guest, slot, backend } = await setUp();
    const driver = guest.boot(slot);
    backend.hold = true;
    const write = driver.write(16, new Uint8Array(512).fill(9));
    guest.kick(slot, driver);
    const saving = emulator.save_state();
    await new Promise((resolve) => setTimeout(resolve, 20));
    backend.hold = false;
    backend.releaseAll();
    const state = await saving;
    driver.poll();
    expect(write.status).toBe(0);

    const second = await setUp();
    await second.emulator.restore_state(state);
    expect([second.blk.status, second.guest.read(slot, 0x40, 1)]).toEqual([15, 1]);
    const [ram, copy] = [guest, second.guest].map(({ cpu }) => cpu.mem8.slice(MIB, 5 * MIB));
    expect(Buffer.compare(copy!, ram!)).toBe(0);
    const again = second.guest.boot(slot);
    const read = again.read(16, 512);
    await second.guest.finish(slot, again);
    expect(read.status).toBe(0);
    // The first one was only paused.
    const flush = driver.flush();
    await guest.finish(slot, driver);
    expect(flush.status).toBe(0);
  });

  it('restoring where it was taken: rings and device go back together', async () => {
    const { emulator, guest, slot, errors } = await setUp();
    const driver = guest.boot(slot);
    const state = await emulator.save_state();
    driver.flush();
    await guest.finish(slot, driver);
    await emulator.restore_state(state);
    guest.write(slot, 0x44, 2, 0);
    await new Promise(setImmediate);
    expect([guest.read(slot, 0x14, 1), guest.read(slot, 0x40, 1), errors]).toEqual([15, 0, []]);
  });

  it('E2: a state of other disks is refused, and the machine goes on', async () => {
    const { emulator, guest, slot } = await setUp();
    guest.boot(slot, true);
    const state = await emulator.save_state();
    for (const [sizeBytes, options, text] of [
      [2 * MIB, {}, 'the one there has 2097152'],
      [MIB, { slot: 20 }, 'none is attached there'],
      [MIB, { features: { packed: false } }, 'not offered'],
      [MIB, { queueSizeMax: 32 }, 'queues[0].size'],
    ] as const) {
      const other = makeEmulator();
      await attachVirtioBlk(other, makeDisk(sizeBytes).disk, { ...SMALL, ...options });
      const second = await PciGuest.of(other);
      const [at = 0] = second.slots;
      const driver = second.boot(at);
      await expect(other.restore_state(state)).rejects.toThrow(text);
      const flush = driver.flush();
      await second.finish(at, driver);
      expect(flush.status).toBe(0);
    }
  });

  it('E2: what is no state at all is refused, and the machine goes on', async () => {
    const { emulator, guest, slot } = await setUp();
    const driver = guest.boot(slot);
    await expect(emulator.restore_state(new ArrayBuffer(64))).rejects.toThrow();
    const flush = driver.flush();
    await guest.finish(slot, driver);
    expect(flush.status).toBe(0);
  });

  it('a state without disks resets those that are there', async () => {
    const bare = makeEmulator();
    await PciGuest.of(bare);
    const state = await bare.save_state();
    const { emulator, guest, slot, blk } = await setUp();
    guest.boot(slot);
    await emulator.restore_state(state);
    expect([blk.status, guest.slots]).toEqual([0, [slot]]);
  });

  it("v86's own calls are refused while a disk is attached, and work when it is gone", async () => {
    const { emulator, blk } = await setUp();
    const { v86 } = emulator as unknown as {
      v86: { save_state(): ArrayBuffer; restore_state(state: ArrayBuffer): void };
    };
    const state = await emulator.save_state();
    expect(() => v86.save_state()).toThrow(code('ERR_SLUICE_BUSY'));
    expect(() => v86.restore_state(state)).toThrow(code('ERR_SLUICE_BUSY'));
    await blk.close();
    v86.restore_state(v86.save_state());
  });

  it('a request that an error has stopped keeps the state from being taken', async () => {
    const { emulator, guest, slot, backend, blk } = await setUp({ writeError: 'stop' });
    const driver = guest.boot(slot);
    backend.fail('write', { errno: 28 });
    const write = driver.write(0, new Uint8Array(512));
    guest.kick(slot, driver);
    await new Promise(setImmediate);
    await expect(emulator.save_state()).rejects.toThrow(code('ERR_SLUICE_BUSY'));
    blk.resume();
    await guest.finish(slot, driver);
    expect(write.status).toBe(0);
    await emulator.save_state();
  });
});

describe('a driver that breaks rules', () => {
  it.each<[string, (driver: ReturnType<PciGuest['boot']>) => void]>([
    [
      'a buffer past the end of RAM',
      (driver) =>
        void driver.raw(0, {
          alter: (chain) => chain.map((part) => ({ ...part, address: 1n << 40n })),
        }),
    ],
    [
      'a buffer that wraps',
      (driver) =>
        void driver.raw(0, {
          alter: (chain) => chain.map((part) => ({ ...part, address: 0xffff_ffff_ffff_fff0n })),
        }),
    ],
    [
      "a buffer in the engine's own memory",
      (driver) =>
        void driver.raw(0, {
          alter: (chain) => chain.map((part) => ({ ...part, address: 17n << 20n })),
        }),
    ],
  ])('%s: NEEDS_RESET, an error for the owner, and a reset mends it', async (_, break_) => {
    const { guest, slot, errors } = await setUp();
    break_(guest.boot(slot));
    const driver = guest.boot(slot);
    break_(driver);
    guest.kick(slot, driver);
    await new Promise(setImmediate);
    expect(guest.read(slot, 0x14, 1) & NEEDS_RESET).toBe(NEEDS_RESET);
    expect(errors[0]).toMatchObject({ code: 'ERR_SLUICE_VIRTQUEUE' });
    const again = guest.boot(slot);
    const flush = again.flush();
    await guest.finish(slot, again);
    expect(flush.status).toBe(0);
  });

  it('rings where there is no RAM: NEEDS_RESET', async () => {
    const { guest, slot, errors } = await setUp();
    for (const address of [0xffff_f000, 17 << 20, 0x8000_0000]) {
      guest.write(slot, 0x14, 1, 0);
      guest.write(slot, 0x14, 1, 3);
      guest.write(slot, 0x08, 4, 1);
      guest.write(slot, 0x0c, 4, 1);
      guest.write(slot, 0x14, 1, 11);
      for (const at of [0x20, 0x28, 0x30]) guest.write(slot, at, 4, address);
      guest.write(slot, 0x1c, 2, 1);
      guest.write(slot, 0x14, 1, 15);
      expect(guest.read(slot, 0x14, 1) & NEEDS_RESET).toBe(NEEDS_RESET);
    }
    expect(errors).toHaveLength(3);
  });

  it('any accesses and any ring contents: nothing throws, and a reset mends it', async () => {
    const { guest, slot } = await setUp();
    const { cpu } = guest;
    const access = fc.tuple(
      fc.integer({ min: 0, max: 0xff }),
      fc.constantFrom(1, 2, 4),
      fc.oneof(fc.nat(16), fc.integer({ min: 0, max: 0xffff_ffff })),
      fc.constantFrom('read', 'write', 'config', 'kick', 'ring'),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(access, { maxLength: 80 }), async (accesses) => {
        const queue = guest.boot(slot).queue;
        for (const [at, size, value, what] of accesses) {
          const offset = at & -size;
          if (what === 'read') guest.read(slot, offset, size);
          else if (what === 'write') guest.write(slot, offset, size, value);
          else if (what === 'kick') guest.write(slot, 0x44, 2, value);
          else if (what === 'config' && at >= 0x40) guest.writeConfig(slot, at & 0xfc, value);
          else if (what === 'ring') cpu.mem8[Number(queue.desc) + (value % 2048)] = at;
        }
        await new Promise(setImmediate);
        guest.write(slot, 0x14, 1, 0);
        for (let turns = 0; guest.read(slot, 0x14, 1) !== 0 && turns < 100; turns++) {
          await new Promise(setImmediate);
        }
        const driver = guest.boot(slot);
        const flush = driver.flush();
        await guest.finish(slot, driver);
        expect(flush.status).toBe(0);
      }),
      { numRuns: 60 },
    );
  });
});
