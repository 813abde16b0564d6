// The register face. VIRTIO 1.3, 4.2.2 and 4.2.4.

import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Mmio } from '../../src/virtio/mmio.ts';
import { type FakeOptions, NEEDS_RESET, setUp as setUpBlk } from './fake-queues.ts';

const DEVICE_FEATURES = 0x010;
const DEVICE_FEATURES_SEL = 0x014;
const DRIVER_FEATURES = 0x020;
const DRIVER_FEATURES_SEL = 0x024;
const GUEST_PAGE_SIZE = 0x028;
const QUEUE_SEL = 0x030;
const QUEUE_SIZE_MAX = 0x034;
const QUEUE_SIZE = 0x038;
const QUEUE_ALIGN = 0x03c;
const QUEUE_PFN = 0x040;
const QUEUE_READY = 0x044;
const QUEUE_NOTIFY = 0x050;
const INTERRUPT_STATUS = 0x060;
const INTERRUPT_ACK = 0x064;
const STATUS = 0x070;
const QUEUE_DESC = 0x080;
const QUEUE_DRIVER = 0x090;
const QUEUE_DEVICE = 0x0a0;
const QUEUE_RESET = 0x0c0;
const CONFIG_GENERATION = 0x0fc;
const CONFIG = 0x100;
const WRITEBACK = CONFIG + 32;

function setUp(options: FakeOptions = {}) {
  const { blk, ...rest } = setUpBlk(options);
  const { mmio } = blk;
  return { ...rest, blk, mmio, ...registersOf(mmio) };
}

function registersOf(mmio: Mmio) {
  const readl = (offset: number): number => mmio.read(offset, 4);
  const writel = (value: number, offset: number): void => mmio.write(offset, 4, value);
  return { readl, writel };
}

type Machine = ReturnType<typeof setUp>;

function readFeatures({ readl, writel }: Machine): bigint {
  writel(1, DEVICE_FEATURES_SEL);
  const high = readl(DEVICE_FEATURES);
  writel(0, DEVICE_FEATURES_SEL);
  return (BigInt(high) << 32n) | BigInt(readl(DEVICE_FEATURES));
}

function writeFeatures({ writel }: Machine, features: bigint): void {
  writel(1, DRIVER_FEATURES_SEL);
  writel(Number(features >> 32n), DRIVER_FEATURES);
  writel(0, DRIVER_FEATURES_SEL);
  writel(Number(features & 0xffff_ffffn), DRIVER_FEATURES);
}

function writeAddress({ writel }: Machine, address: bigint, register: number): void {
  writel(Number(address & 0xffff_ffffn), register);
  writel(Number(address >> 32n), register + 4);
}

const addStatus = ({ readl, writel }: Machine, bit: number): void =>
  writel(readl(STATUS) | bit, STATUS);

/** The accesses of Linux's virtio_mmio, from probe to DRIVER_OK, with one queue. */
function probeModern(machine: Machine): void {
  const { readl, writel } = machine;
  expect(readl(0x000)).toBe(0x7472_6976);
  expect(readl(0x004)).toBe(2);
  expect(readl(0x008)).toBe(2);
  writel(0, STATUS);
  addStatus(machine, 1);
  addStatus(machine, 2);
  writeFeatures(machine, readFeatures(machine));
  addStatus(machine, 8);
  expect(readl(STATUS)).toBe(11);
  writel(0, QUEUE_SEL);
  expect(readl(QUEUE_READY)).toBe(0);
  expect(readl(QUEUE_SIZE_MAX)).toBe(256);
  writel(256, QUEUE_SIZE);
  writeAddress(machine, 0x1_2345_6000n, QUEUE_DESC);
  writeAddress(machine, 0x1_2345_7000n, QUEUE_DRIVER);
  writeAddress(machine, 0x1_2345_8000n, QUEUE_DEVICE);
  writel(1, QUEUE_READY);
  addStatus(machine, 4);
}

/** The same for a device of version 1. */
function probeLegacy(machine: Machine): void {
  const { readl, writel } = machine;
  expect(readl(0x000)).toBe(0x7472_6976);
  expect(readl(0x004)).toBe(1);
  expect(readl(0x008)).toBe(2);
  writel(4096, GUEST_PAGE_SIZE);
  writel(0, STATUS);
  addStatus(machine, 1);
  addStatus(machine, 2);
  writeFeatures(machine, readFeatures(machine));
  writel(0, QUEUE_SEL);
  expect(readl(QUEUE_PFN)).toBe(0);
  expect(readl(QUEUE_SIZE_MAX)).toBe(256);
  writel(256, QUEUE_SIZE);
  writel(4096, QUEUE_ALIGN);
  writel(0x1234, QUEUE_PFN);
  addStatus(machine, 4);
}

describe('version 2', () => {
  it('VIRTIO 4.2.3: the sequence of the Linux driver starts the device', () => {
    const machine = setUp();
    probeModern(machine);
    const { readl, fake, blk } = machine;
    expect(readl(STATUS)).toBe(15);
    expect(readl(QUEUE_READY)).toBe(1);
    expect(fake.configs[0]).toMatchObject({
      size: 256,
      desc: 0x1_2345_6000n,
      driver: 0x1_2345_7000n,
      device: 0x1_2345_8000n,
      packed: true,
      indirect: true,
      eventIdx: true,
    });
    expect(blk.features.negotiated).toBe(blk.features.offered);
    expect(fake.running).toBe(true);
  });

  it('VIRTIO 4.2.2: a kick, an interrupt and its acknowledgement', () => {
    const machine = setUp();
    probeModern(machine);
    const { readl, writel, fake, told } = machine;
    fake.taken();
    writel(0, QUEUE_NOTIFY);
    expect(fake.taken()).toEqual(['notify 0']);
    fake.events.onInterrupt(0);
    expect(readl(INTERRUPT_STATUS)).toBe(1);
    writel(1, INTERRUPT_ACK);
    expect(readl(INTERRUPT_STATUS)).toBe(0);
    expect(told).toEqual(['up', 'used 0', 'down']);
  });

  it('VIRTIO 2.9: NotificationData names the queue in its low half', () => {
    const machine = setUp();
    probeModern(machine);
    machine.fake.taken();
    machine.writel(0x8005_0000, QUEUE_NOTIFY);
    expect(machine.fake.taken()).toEqual(['notify 0']);
  });

  it('removing the driver: reset, then QueueReady 0, then a new probe, in one turn', () => {
    const machine = setUp();
    probeModern(machine);
    const { readl, writel } = machine;
    writel(0, STATUS);
    writel(0, QUEUE_SEL);
    writel(0, QUEUE_READY);
    expect(readl(QUEUE_READY)).toBe(0);
    probeModern(machine);
    expect(readl(STATUS)).toBe(15);
  });

  it('VIRTIO 4.2.2.2: QueueReady reads 1 until the device has let go of the queue', async () => {
    const machine = setUp();
    probeModern(machine);
    const { readl, writel, fake } = machine;
    fake.open[0] = 1;
    writel(0, QUEUE_READY);
    expect(readl(QUEUE_READY)).toBe(1);
    await fake.complete();
    expect(readl(QUEUE_READY)).toBe(0);
  });

  it('VIRTIO 4.2.2: QueueReset reads 1 until the queue is reset', async () => {
    const machine = setUp();
    probeModern(machine);
    const { readl, writel, fake } = machine;
    fake.open[0] = 1;
    writel(1, QUEUE_RESET);
    expect([readl(QUEUE_RESET), readl(QUEUE_READY)]).toEqual([1, 1]);
    await fake.complete();
    expect([readl(QUEUE_RESET), readl(QUEUE_READY)]).toEqual([0, 0]);
  });

  it('V87: FEATURES_OK with a bit that was not offered does not stand', () => {
    const machine = setUp();
    writeFeatures(machine, readFeatures(machine) | (1n << 63n));
    machine.writel(11, STATUS);
    expect(machine.readl(STATUS)).toBe(3);
  });

  it('VIRTIO 4.2.2.1: a shared memory region does not exist', () => {
    const { readl } = setUp();
    for (const offset of [0x0b0, 0x0b4]) expect(readl(offset)).toBe(0xffff_ffff);
  });

  it('has no legacy registers', () => {
    const machine = setUp();
    const { writel, readl, blk } = machine;
    writel(256, QUEUE_SIZE);
    writel(1, QUEUE_PFN);
    expect(readl(QUEUE_PFN)).toBe(0);
    expect(blk.registers.isEnabled(0)).toBe(false);
  });

  it('a queue that does not exist has size 0 and cannot be enabled', () => {
    const { readl, writel } = setUp();
    writel(7, QUEUE_SEL);
    expect(readl(QUEUE_SIZE_MAX)).toBe(0);
    writel(1, QUEUE_READY);
    expect([readl(QUEUE_READY), readl(STATUS)]).toEqual([0, 0]);
  });

  it('words of features past the second are 0', () => {
    const { readl, writel } = setUp();
    for (const word of [2, 3, 0xffff_ffff]) {
      writel(word, DEVICE_FEATURES_SEL);
      expect(readl(DEVICE_FEATURES)).toBe(0);
    }
  });
});

describe('version 1 (VIRTIO 4.2.4)', () => {
  it('the sequence of the Linux driver starts the device', () => {
    const machine = setUp({ legacy: true });
    probeLegacy(machine);
    const { readl, fake } = machine;
    expect(readl(STATUS)).toBe(7);
    expect(readl(QUEUE_PFN)).toBe(0x1234);
    // 16 * 256 bytes of descriptors; 6 + 2 * 256 of available ring, up to the next page.
    expect(fake.configs[0]).toMatchObject({
      size: 256,
      desc: 0x123_4000n,
      driver: 0x123_5000n,
      device: 0x123_6000n,
      packed: false,
    });
    expect(fake.running).toBe(true);
  });

  it('shows 32 bits of features', () => {
    const machine = setUp({ legacy: true });
    expect(readFeatures(machine)).toBe(machine.blk.features.offered & 0xffff_ffffn);
  });

  it('QueueAlign and GuestPageSize place the used ring', () => {
    const machine = setUp({ legacy: true });
    const { writel, readl, blk } = machine;
    writel(1024, GUEST_PAGE_SIZE);
    writel(8, QUEUE_SIZE);
    writel(64, QUEUE_ALIGN);
    writel(5, QUEUE_PFN);
    // 0x1400; 128 bytes of descriptors; 22 bytes of available ring; the next multiple of 64.
    expect(blk.registers.settings(0)).toMatchObject({
      desc: 0x1400n,
      driver: 0x1480n,
      device: 0x14c0n,
    });
    expect(readl(QUEUE_PFN)).toBe(5);
  });

  it('the page size outlives a reset: Linux writes it before', () => {
    const { writel, blk } = setUp({ legacy: true });
    writel(16_384, GUEST_PAGE_SIZE);
    writel(0, STATUS);
    writel(8, QUEUE_SIZE);
    writel(2, QUEUE_PFN);
    expect(blk.registers.settings(0)).toMatchObject({ desc: 0x8000n, device: 0xc000n });
  });

  it('QueuePFN 0 stops the queue', () => {
    const machine = setUp({ legacy: true });
    probeLegacy(machine);
    machine.writel(0, QUEUE_PFN);
    expect(machine.readl(QUEUE_PFN)).toBe(0);
    expect(machine.fake.taken()).toContain('reset 0');
  });

  it('V80, V81: the registers of an enabled queue are latched', () => {
    const machine = setUp({ legacy: true });
    probeLegacy(machine);
    const { writel, readl, blk } = machine;
    const before = blk.registers.settings(0);
    writel(64, QUEUE_SIZE);
    writel(0x9999, QUEUE_PFN);
    expect(blk.registers.settings(0)).toEqual(before);
    expect(readl(QUEUE_PFN)).toBe(0x1234);
  });

  it('an alignment or page size that is none is ignored', () => {
    const { writel, blk } = setUp({ legacy: true });
    writel(0, QUEUE_SEL);
    for (const bad of [0, 3, 0xffff_ffff]) {
      writel(bad, QUEUE_ALIGN);
      writel(bad, GUEST_PAGE_SIZE);
    }
    writel(16, QUEUE_SIZE);
    writel(1, QUEUE_PFN);
    expect(blk.registers.settings(0)).toMatchObject({ desc: 0x1000n, device: 0x2000n });
  });

  it('the largest of everything neither throws nor starts anything', () => {
    const { writel, readl, blk } = setUp({ legacy: true });
    writel(0x8000_0000, GUEST_PAGE_SIZE);
    writel(0x8000_0000, QUEUE_ALIGN);
    writel(0xffff_ffff, QUEUE_SIZE);
    writel(0xffff_ffff, QUEUE_PFN);
    expect(blk.registers.isEnabled(0)).toBe(false);
    expect(readl(STATUS)).toBe(NEEDS_RESET);
  });

  it('has no modern registers', () => {
    const { readl, writel, blk } = setUp({ legacy: true });
    writel(1, QUEUE_READY);
    writel(0x1000, QUEUE_DESC);
    expect(blk.registers.settings(0)).toMatchObject({ desc: 0n, enabled: false });
    expect([readl(QUEUE_READY), readl(CONFIG_GENERATION)]).toEqual([0, 0]);
  });
});

describe('accesses (I1)', () => {
  it('VIRTIO 4.2.2.2: of a register in parts, or unaligned, read 0 and write nothing', () => {
    const { mmio } = setUp();
    for (const [offset, size] of [
      [0x000, 1],
      [0x000, 2],
      [0x002, 4],
      [0x070, 8],
      [-4, 4],
    ] as const) {
      expect(mmio.read(offset, size)).toBe(0);
      mmio.write(offset, size, 1);
    }
    mmio.write(STATUS, 1, 1);
    mmio.write(STATUS + 1, 4, 1);
    expect(mmio.read(STATUS, 4)).toBe(0);
  });

  it('VIRTIO 4.2.2.2: the configuration space has any width', () => {
    const { mmio, blk } = setUp();
    blk.resized(0x1234_5678 * 512);
    expect(mmio.read(CONFIG, 4)).toBe(0x1234_5678);
    expect(mmio.read(CONFIG, 2)).toBe(0x5678);
    expect(mmio.read(CONFIG + 1, 1)).toBe(0x56);
    expect(mmio.read(CONFIG + 1, 4)).toBe(0x0012_3456);
    expect(mmio.read(CONFIG + 96, 4)).toBe(0);
    expect(mmio.read(CONFIG + 1e9, 4)).toBe(0);
    expect(mmio.read(CONFIG, 8)).toBe(0);
    expect(mmio.read(CONFIG_GENERATION, 4)).toBe(1);
  });

  it('V88: writeback is written with one byte', () => {
    const machine = setUp();
    probeModern(machine);
    const { mmio } = machine;
    mmio.write(WRITEBACK, 4, 0);
    expect(mmio.read(WRITEBACK, 1)).toBe(1);
    mmio.write(WRITEBACK, 1, 0xff00);
    expect(mmio.read(WRITEBACK, 1)).toBe(0);
    mmio.write(WRITEBACK, 1, 2);
    expect(mmio.read(WRITEBACK, 1)).toBe(1);
  });

  it('I3: no stream of accesses throws, and every read is an unsigned number of its width', () => {
    const access = fc.record({
      offset: fc.oneof(fc.integer({ min: -8, max: 0x170 }), fc.maxSafeInteger()),
      aligned: fc.boolean(),
      size: fc.constantFrom(1, 2, 4, 4, 4, 8),
      value: fc.oneof(fc.integer({ min: 0, max: 0x40 }), fc.integer({ min: 0, max: 0xffff_ffff })),
    });
    const stream = fc.array(access, { maxLength: 80 });
    fc.assert(
      fc.property(stream, fc.boolean(), (accesses, legacy) => {
        const { mmio } = setUp({ legacy, queues: 2 });
        for (const { offset, aligned, size, value } of accesses) {
          const at = aligned ? offset - (offset % 4) : offset;
          mmio.write(at, size, value);
          const read = mmio.read(at, size);
          expect(Number.isInteger(read) && read >= 0 && read < 2 ** 32).toBe(true);
        }
      }),
      { numRuns: 300 },
    );
  });
});
