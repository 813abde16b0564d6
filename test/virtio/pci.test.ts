// The register face for PCI. VIRTIO 1.3, 4.1.

import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { pciConfigSpace } from '../../src/virtio/pci-config-space.ts';
import {
  DRIVER_OK,
  type FakeOptions,
  FEATURES_OK,
  NEEDS_RESET,
  setUp as make,
} from './fake-queues.ts';

const FEATURE_SELECT = 0x00;
const FEATURE = 0x04;
const DRIVER_SELECT = 0x08;
const DRIVER_FEATURE = 0x0c;
const STATUS = 0x14;
const GENERATION = 0x15;
const QUEUE_SELECT = 0x16;
const QUEUE_SIZE = 0x18;
const QUEUE_ENABLE = 0x1c;
const QUEUE_DESC = 0x20;
const QUEUE_RESET = 0x3a;
const ISR = 0x40;
const NOTIFY = 0x44;
const CONFIG = 0x80;

function setUp(options: FakeOptions = {}) {
  const machine = make(options);
  const { pci } = machine.blk;
  return { ...machine, pci };
}

type Machine = ReturnType<typeof setUp>;

/** The accesses of Linux's virtio_pci_modern, from probe to DRIVER_OK, with one queue. */
function probe({ pci }: Machine): void {
  pci.write(STATUS, 1, 0);
  pci.write(STATUS, 1, 1);
  pci.write(STATUS, 1, 3);
  for (const word of [0, 1]) {
    pci.write(FEATURE_SELECT, 4, word);
    pci.write(DRIVER_SELECT, 4, word);
    pci.write(DRIVER_FEATURE, 4, pci.read(FEATURE, 4));
  }
  pci.write(STATUS, 1, FEATURES_OK);
  expect(pci.read(STATUS, 1)).toBe(FEATURES_OK);
  pci.write(QUEUE_SELECT, 2, 0);
  pci.write(QUEUE_SIZE, 2, 128);
  [0x1000, 1, 0x2000, 2, 0x3000, 3].forEach((half, index) =>
    pci.write(QUEUE_DESC + index * 4, 4, half),
  );
  pci.write(QUEUE_ENABLE, 2, 1);
  pci.write(STATUS, 1, DRIVER_OK);
}

describe('a driver', () => {
  it('4.1.4.3: finds the device, negotiates, and sets a queue up by halves', () => {
    const machine = setUp();
    const { pci, blk, fake } = machine;
    expect([pci.read(0x12, 2), pci.read(QUEUE_SIZE, 2)]).toEqual([1, 256]);
    probe(machine);
    expect(blk.features.negotiated).toBe(blk.features.offered);
    expect(fake.configs[0]).toMatchObject({
      size: 128,
      desc: 0x1_0000_1000n,
      driver: 0x2_0000_2000n,
      device: 0x3_0000_3000n,
    });
    expect([QUEUE_DESC, QUEUE_DESC + 4].map((at) => pci.read(at, 4))).toEqual([0x1000, 1]);
    expect([pci.read(STATUS, 1), pci.read(QUEUE_ENABLE, 2)]).toEqual([DRIVER_OK, 1]);
  });

  it('4.1.4.3: reads back what it has accepted, and 0 past the words there are', () => {
    const { pci, blk } = setUp();
    pci.write(DRIVER_FEATURE, 4, 0x200);
    expect([pci.read(DRIVER_FEATURE, 4), blk.driverFeatures(0)]).toEqual([0x200, 0x200]);
    pci.write(DRIVER_SELECT, 4, 2);
    pci.write(FEATURE_SELECT, 4, 0xffff_ffff);
    expect([pci.read(DRIVER_FEATURE, 4), pci.read(FEATURE, 4)]).toEqual([0, 0]);
    expect(pci.read(FEATURE_SELECT, 4)).toBe(0xffff_ffff);
  });

  it('4.1.4.4: notifies every queue at one address, in 16 bits or 32', () => {
    const machine = setUp({ queues: 2, features: { notificationData: false } });
    probe(machine);
    machine.pci.write(QUEUE_SELECT, 2, 1);
    expect(machine.pci.read(0x1e, 2)).toBe(0);
    machine.fake.taken();
    machine.pci.write(NOTIFY, 2, 0);
    machine.pci.write(NOTIFY, 4, 0);
    machine.pci.write(NOTIFY, 2, 1);
    expect(machine.fake.taken()).toEqual(['notify 0', 'notify 0']);
  });

  it('P3, 4.1.4.5: reading the ISR acknowledges it and lowers the line', () => {
    const machine = setUp();
    probe(machine);
    machine.fake.events.onInterrupt(0);
    machine.blk.resized(1 << 21);
    expect(machine.pci.read(GENERATION, 1)).toBe(1);
    expect(machine.told.filter((word) => word === 'up' || word === 'down')).toEqual(['up']);
    expect([machine.pci.read(ISR, 1), machine.pci.read(ISR, 1)]).toEqual([3, 0]);
    expect(machine.told.at(-1)).toBe('down');
  });

  it('4.1.4.6: accesses the configuration in any width', () => {
    const machine = setUp();
    const { pci } = machine;
    probe(machine);
    expect([pci.read(CONFIG, 4), pci.read(CONFIG + 1, 1)]).toEqual([2048, 8]);
    pci.write(CONFIG + 32, 1, 0);
    expect([pci.read(CONFIG + 32, 1), machine.blk.wce]).toEqual([0, false]);
    expect(pci.read(0xfc, 4)).toBe(0);
  });

  it('4.1.4.3: a queue that is being reset reads so until nothing of it is in flight', async () => {
    const machine = setUp();
    const { pci, fake } = machine;
    probe(machine);
    fake.open[0] = 1;
    pci.write(QUEUE_RESET, 2, 1);
    expect([pci.read(QUEUE_RESET, 2), pci.read(QUEUE_ENABLE, 2)]).toEqual([1, 1]);
    await fake.complete();
    expect([pci.read(QUEUE_RESET, 2), pci.read(QUEUE_ENABLE, 2)]).toEqual([0, 0]);
  });

  it('D3: a reset takes the line down at once, while I/O is still in flight', async () => {
    const machine = setUp();
    probe(machine);
    machine.fake.events.onInterrupt(0);
    machine.fake.open[0] = 1;
    machine.pci.write(STATUS, 1, 0);
    expect([machine.pci.read(STATUS, 1), machine.told.at(-1)]).toEqual([DRIVER_OK, 'down']);
    await machine.fake.complete();
    expect(machine.pci.read(STATUS, 1)).toBe(0);
  });

  it('P5: is told that there are no vectors', () => {
    const { pci } = setUp();
    pci.write(0x10, 2, 0);
    pci.write(0x1a, 2, 0);
    expect([pci.read(0x10, 2), pci.read(0x1a, 2)]).toEqual([0xffff, 0xffff]);
  });
});

describe('a driver that is wrong', () => {
  it('P1: part of a field, or more than one, reads 0 and is not written', () => {
    const { pci, blk } = setUp();
    pci.write(STATUS, 4, 1);
    pci.write(STATUS, 2, 1);
    pci.write(DRIVER_FEATURE, 2, 0x200);
    pci.write(DRIVER_FEATURE + 1, 1, 2);
    expect([blk.status, blk.driverFeatures(0)]).toEqual([0, 0]);
    expect([pci.read(0x12, 1), pci.read(0x12, 4), pci.read(0x13, 1)]).toEqual([0, 0, 0]);
  });

  it('P2: of a queue that is not there everything reads 0', () => {
    const { pci } = setUp();
    pci.write(QUEUE_SELECT, 2, 7);
    pci.write(QUEUE_DESC, 4, 0x1000);
    pci.write(QUEUE_ENABLE, 2, 1);
    const fields = [QUEUE_SIZE, QUEUE_ENABLE, QUEUE_RESET].map((at) => pci.read(at, 2));
    expect([...fields, pci.read(QUEUE_DESC, 4)]).toEqual([0, 0, 0, 0]);
  });

  it('a queue of an impossible size sets NEEDS_RESET', () => {
    const { pci, errors } = setUp();
    pci.write(QUEUE_SIZE, 2, 4096);
    pci.write(QUEUE_ENABLE, 2, 1);
    expect(pci.read(STATUS, 1)).toBe(NEEDS_RESET);
    expect(errors).toHaveLength(1);
  });

  it('P4: no access throws', () => {
    const offset = fc.integer({ min: 0, max: 0xff });
    const value = fc.oneof(fc.nat(16), fc.integer({ min: 0, max: 0xffff_ffff }));
    const access = fc.tuple(offset, fc.constantFrom(1, 2, 4), value, fc.boolean());
    fc.assert(
      fc.property(fc.array(access, { maxLength: 60 }), (accesses) => {
        const machine = setUp({ queues: 2 });
        probe(machine);
        for (const [at, size, bits, isRead] of accesses) {
          if (isRead) expect(machine.pci.read(at, size)).toBeGreaterThanOrEqual(0);
          else machine.pci.write(at, size, bits);
        }
      }),
    );
  });
});

describe('save and restore', () => {
  it('keep what the BAR remembers', async () => {
    const machine = setUp({ queues: 2 });
    probe(machine);
    machine.pci.write(QUEUE_SELECT, 2, 1);
    const state = await machine.blk.save();
    const other = setUp({ queues: 2 });
    await other.blk.restore(JSON.parse(JSON.stringify(state)));
    expect(other.pci.registers).toEqual(machine.pci.registers);
    expect(other.pci.read(QUEUE_SELECT, 2)).toBe(1);
  });
});

/** The capabilities: kind -> where in the BAR, and how long. */
function capabilities(space: Uint8Array): Map<number, readonly [number, number]> {
  const view = new DataView(space.buffer);
  const found = new Map<number, readonly [number, number]>();
  for (let at = space[0x34]!; at !== 0; at = space[at + 1]!) {
    expect([space[at], at % 4]).toEqual([9, 0]);
    found.set(space[at + 3]!, [view.getUint32(at + 8, true), view.getUint32(at + 12, true)]);
  }
  return found;
}

describe('the configuration space', () => {
  it('4.1.2.1: is that of a device for modern drivers alone', () => {
    const view = new DataView(pciConfigSpace(2, 0x2000).buffer);
    expect([view.getUint16(0, true), view.getUint16(2, true)]).toEqual([0x1af4, 0x1042]);
    expect(view.getUint8(8)).toBeGreaterThanOrEqual(1);
    expect(view.getUint16(0x2e, true)).toBeGreaterThanOrEqual(0x40);
    expect([view.getUint32(0x10, true), view.getUint8(0x3d)]).toEqual([0x2001, 1]);
  });

  it('4.1.4: says where each part is, and they do not overlap', () => {
    const found = capabilities(pciConfigSpace(2, 0x2000));
    expect([...found.keys()]).toEqual([1, 2, 3, 4, 5]);
    const parts = [1, 2, 3, 4].map((kind) => found.get(kind)!).sort(([a], [b]) => a - b);
    parts.forEach(([from, length], index) => {
      expect(from + length).toBeLessThanOrEqual(parts[index + 1]?.[0] ?? 0x100);
    });
  });
});
