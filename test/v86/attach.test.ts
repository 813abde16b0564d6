// Disks in an emulator that does not run: plugging, ports, interrupts, resets, and drivers that
// break every rule. States are in states.test.ts; what a real guest does is in boot.test.ts.

import { fileURLToPath } from 'node:url';
import * as fc from 'fast-check';
import { rolldown } from 'rolldown';
import type { V86 } from 'v86';
import { describe, expect, it } from 'vitest';
import type { Disk } from '../../src/disk.ts';
import { attachVirtioBlk } from '../../src/v86.ts';
import { PciGuest } from './pci-guest.ts';
import { makeDisk, makeEmulator, MIB, setUp, SMALL } from './rig.ts';

const NEEDS_RESET = 0x40;
/** The id of v86's network card, which has the same line as slot 13. */
const NETWORK = 5 << 3;
const code = (code: string) => expect.objectContaining({ code }) as Error;

it('attaches no disk that is none', async () => {
  const refused = attachVirtioBlk({} as V86, {} as Disk);
  await expect(refused).rejects.toMatchObject({
    code: 'ERR_SLUICE_INVALID_ARGUMENT',
    message: 'attachVirtioBlk needs a Disk, as openDisk resolves with, not an Object',
  });
});

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
