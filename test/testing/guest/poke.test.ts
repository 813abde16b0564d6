import { describe, expect, it } from 'vitest';
import {
  GuestMemory,
  PackedDriver,
  pokeSplitDescriptor,
  SplitDriver,
} from '../../../src/testing/guest/index.ts';
import { createPlainDevice, type PlainDevice } from './plain-device.ts';

const NEXT = 1;
const WRITE = 2;

function openSplit(): { memory: GuestMemory; queue: SplitDriver; device: PlainDevice } {
  const memory = new GuestMemory(new ArrayBuffer(65536));
  const queue = new SplitDriver({ memory, size: 4 });
  return { memory, queue, device: createPlainDevice(memory, queue.config()) };
}

describe('a hostile split driver', () => {
  it('writes any descriptor, also after it was published', () => {
    const { queue, device } = openSplit();
    const head = queue.add([{ address: 64n, length: 16, writable: false }]);
    queue.publish();
    queue.pokeDescriptor(head, { address: (1n << 64n) - 1n, length: 0xffff_ffff, flags: NEXT });
    queue.pokeDescriptor(head, { next: 3 });
    queue.pokeDescriptor(3, { address: 128, length: 1, flags: WRITE });
    expect(device.take()!.descriptors).toEqual([
      { address: (1n << 64n) - 1n, length: 0xffff_ffff, writable: false },
      { address: 128n, length: 1, writable: true },
    ]);
  });

  it('offers one head twice, or a chain of its own', () => {
    const { queue, device } = openSplit();
    const head = queue.add([{ address: 0n, length: 1, writable: true }]);
    queue.offer(head);
    expect(queue.publish()).toBe(true);
    const [first, second] = [device.take()!, device.take()!];
    expect(second).toEqual(first);
    device.use([first], 1);
    device.use([second], 1);
    expect(queue.takeUsed()).toEqual({ token: head, length: 1, known: true });
    expect(queue.takeUsed()).toEqual({ token: head, length: 1, known: false });
    expect(queue.takeUsed()).toBeUndefined();
  });

  it('writes the available ring: entries, index, flags, used_event', () => {
    const { memory, queue } = openSplit();
    queue.pokeAvail(3, 0xffff);
    queue.availIdx = 0xfffe;
    queue.pokeAvailFlags(0xabcd);
    queue.pokeUsedEvent(0x12345);
    const ring = Array.from({ length: 7 }, (_, i) => memory.getU16(queue.driver + 2n * BigInt(i)));
    expect(ring).toEqual([0xabcd, 0xfffe, 0, 0, 0, 0xffff, 0x2345]);
    expect(queue.availIdx).toBe(0xfffe);
    queue.add([{ address: 0n, length: 1, writable: true }]);
    queue.publish();
    expect(queue.availIdx).toBe(1);
  });

  it('sees what the device says', () => {
    const { memory, queue } = openSplit();
    memory.setU16(queue.device, 1);
    memory.setU16(queue.device + 2n, 7);
    memory.setU16(queue.device + 4n + 32n, 9);
    expect([queue.usedFlags, queue.usedIdx, queue.availEvent]).toEqual([1, 7, 9]);
  });

  it('survives a device that lies about used entries', () => {
    const { memory, queue } = openSplit();
    queue.add([{ address: 0n, length: 1, writable: true }]);
    queue.publish();
    memory.setU16(queue.device + 2n, 0xffff);
    let strays = 0;
    for (let used = queue.takeUsed(); used !== undefined; used = queue.takeUsed()) {
      if (!used.known) strays++;
    }
    expect([strays, queue.inFlight, queue.free]).toEqual([0xfffe, 0, 4]);
  });

  it('writes indirect tables', () => {
    const { memory, queue, device } = openSplit();
    const table = memory.allocate(32);
    pokeSplitDescriptor(memory, table, { address: 5n, length: 6, flags: NEXT, next: 1 });
    pokeSplitDescriptor(memory, table + 16, { address: 7n, length: 8, flags: WRITE });
    queue.pokeDescriptor(2, { address: table, length: 32, flags: 4 });
    queue.offer(2);
    queue.publish();
    expect(device.take()!.descriptors).toEqual([
      { address: 5n, length: 6, writable: false },
      { address: 7n, length: 8, writable: true },
    ]);
  });
});

describe('a hostile packed driver', () => {
  const open = (): { memory: GuestMemory; queue: PackedDriver; device: PlainDevice } => {
    const memory = new GuestMemory(new ArrayBuffer(65536));
    const queue = new PackedDriver({ memory, size: 5, features: { eventIdx: true } });
    return { memory, queue, device: createPlainDevice(memory, queue.config()) };
  };

  it('offers lists of its own, and goes on in the right place behind them', () => {
    const { queue, device } = open();
    const list = [
      { address: 1n, length: 2, id: 9, flags: NEXT },
      { address: 3n, length: 4, id: 0xffff, flags: WRITE },
    ];
    for (let round = 0; round < 7; round++) {
      queue.offer(list);
      const token = queue.add([{ address: 5n, length: 6, writable: true }]);
      expect(queue.free).toBe(2);
      queue.publish();
      const [offered, added] = [device.take()!, device.take()!];
      expect(offered).toMatchObject({ id: 0xffff, slots: 2 });
      expect(added.id).toBe(token);
      device.use([offered], 1);
      device.use([added], 2);
      expect(queue.takeUsed()).toEqual({ token: 0xffff, length: 1, known: false });
      expect(queue.takeUsed()).toEqual({ token, length: 2, known: true });
    }
    expect([queue.free, queue.inFlight]).toEqual([5, 0]);
  });

  it('writes any descriptor with all its flags, and its event structure', () => {
    const { memory, queue } = open();
    queue.pokeDescriptor(4, { address: 8n, length: 7, id: 6, flags: 0xffff });
    const at = queue.desc + 64n;
    expect([memory.getU64(at), memory.getU32(at + 8n)]).toEqual([8n, 7]);
    expect([memory.getU16(at + 12n), memory.getU16(at + 14n)]).toEqual([6, 0xffff]);
    queue.pokeDriverEvent(0x8003, 3);
    expect(memory.getU32(queue.driver)).toBe(0x0003_8003);
    memory.setU32(queue.device, 0x0002_0001);
    expect([queue.deviceEvent, queue.nextAvail]).toEqual([0x0002_0001, 0x8000]);
  });

  it('says that a device with reserved event flags must be notified', () => {
    const { memory, queue } = open();
    memory.setU16(queue.device + 2n, 3);
    queue.add([{ address: 5n, length: 6, writable: true }]);
    expect(queue.publish()).toBe(true);
  });

  it('ignores the length of a used descriptor that was not written to (2.8.9)', () => {
    const { memory, queue, device } = open();
    const token = queue.add([{ address: 5n, length: 6, writable: false }]);
    queue.publish();
    device.use([device.take()!], 0);
    memory.setU32(queue.desc + 8n, 6);
    expect(queue.takeUsed()).toEqual({ token, length: 0, known: true });
  });
});
