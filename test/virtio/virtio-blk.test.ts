// The device over fake queues: status, features, queues, kicks, interrupts, resets.

import { describe, expect, it } from 'vitest';
import * as blkAbi from '../../src/abi/virtio-blk.ts';
import * as ring from '../../src/abi/virtio-ring.ts';
import { feature } from '../../src/virtio/features.ts';
import {
  accept,
  ACKNOWLEDGE,
  drive,
  DRIVER,
  DRIVER_OK,
  enable,
  FEATURES_OK,
  LEGACY_DRIVER_OK,
  NEEDS_RESET,
  setUp,
  turn,
} from './fake-queues.ts';

const VERSION_1 = feature(ring.VIRTIO_F_VERSION_1);
const FAULT = { queue: 1, error: 5, reason: 'a loop', head: 3, descriptor: 4 };

describe('status', () => {
  it('VIRTIO 2.1: is 0 at first, and shows the bits that the driver sets', () => {
    const { blk } = setUp();
    expect(blk.status).toBe(0);
    for (const status of [ACKNOWLEDGE, DRIVER]) {
      blk.writeStatus(status);
      expect(blk.status).toBe(status);
    }
  });

  it('VIRTIO 2.1.1 (D1): a bit that is left out stands, and unknown bits are not taken', () => {
    const { blk } = setUp();
    blk.writeStatus(DRIVER);
    blk.writeStatus(0x10 | 0x20 | NEEDS_RESET | 0x100 | ACKNOWLEDGE);
    expect(blk.status).toBe(DRIVER);
  });

  it('VIRTIO 2.1: FAILED is noted', () => {
    const { blk } = setUp();
    blk.writeStatus(128 | ACKNOWLEDGE);
    expect(blk.status).toBe(129);
  });

  it('VIRTIO 2.1.2: no buffer is taken before DRIVER_OK', () => {
    const { blk, fake } = setUp();
    blk.writeStatus(DRIVER);
    accept(blk, VERSION_1 | feature(blkAbi.VIRTIO_BLK_F_FLUSH));
    blk.writeStatus(FEATURES_OK);
    enable(blk);
    blk.notify(0);
    expect(fake.running).toBe(false);
    expect(fake.taken()).toEqual([]);
    blk.writeStatus(DRIVER_OK);
    expect(fake.taken()).toEqual(['attach 0', 'run']);
  });

  it('a modern driver that leaves FEATURES_OK out gets NEEDS_RESET, once', () => {
    const { blk, fake, errors } = setUp();
    blk.writeStatus(LEGACY_DRIVER_OK);
    blk.writeStatus(LEGACY_DRIVER_OK);
    expect(blk.status).toBe(DRIVER | NEEDS_RESET);
    expect(fake.running).toBe(false);
    expect(errors.map(({ message }) => message)).toEqual([
      'the driver said DRIVER_OK without FEATURES_OK; the device needs a reset',
    ]);
  });
});

describe('features', () => {
  it('VIRTIO 2.2.2: FEATURES_OK stands for offered bits, and the device knows them', () => {
    const { blk, fake } = setUp();
    const accepted = VERSION_1 | feature(ring.VIRTIO_F_RING_PACKED);
    drive(blk, accepted);
    expect(blk.status).toBe(DRIVER_OK);
    expect(blk.features.negotiated).toBe(accepted);
    expect(fake.configs[0]).toMatchObject({ packed: true, indirect: false, eventIdx: false });
  });

  it('V87: with bit 63 FEATURES_OK does not stand, and the reason can be read', () => {
    const { blk } = setUp();
    blk.writeStatus(DRIVER);
    accept(blk, VERSION_1 | feature(63));
    blk.writeStatus(FEATURES_OK);
    expect(blk.status).toBe(DRIVER);
    expect(blk.features.refusal).toContain('not offered');
  });

  it('V87: so it is with a bit of a word that no device has', () => {
    const { blk } = setUp();
    blk.writeStatus(DRIVER);
    accept(blk, VERSION_1);
    blk.writeDriverFeatures(3, 0);
    blk.writeDriverFeatures(0xffff_ffff, 1);
    blk.writeStatus(FEATURES_OK);
    expect(blk.status).toBe(DRIVER);
  });

  it('a driver may choose again after a refusal', () => {
    const { blk } = setUp();
    accept(blk, VERSION_1 | feature(63));
    blk.writeStatus(FEATURES_OK);
    drive(blk, VERSION_1);
    expect(blk.status).toBe(DRIVER_OK);
  });

  it('VIRTIO 3.1.1: no bits are accepted after FEATURES_OK', () => {
    const { blk } = setUp();
    accept(blk, VERSION_1);
    blk.writeStatus(FEATURES_OK);
    accept(blk, 0n);
    expect(blk.features.negotiated).toBe(VERSION_1);
  });

  it('VIRTIO 2.2.3: a legacy driver goes to DRIVER_OK without FEATURES_OK', () => {
    const { blk, fake } = setUp({ legacy: true, barriers: true });
    accept(blk, (1n << 64n) - 1n);
    enable(blk);
    blk.writeStatus(LEGACY_DRIVER_OK);
    expect(blk.status).toBe(LEGACY_DRIVER_OK);
    expect(blk.features.negotiated).toBe(blk.features.offered & 0xffff_ffffn);
    expect(fake.configs[0]).toMatchObject({ packed: false, notifyOnEmpty: true });
    expect(fake.settings).toMatchObject({ fixedFraming: false, barrier: true });
  });

  it('VIRTIO 5.2.6.4: a legacy driver without ANY_LAYOUT frames its requests', () => {
    const { blk, fake } = setUp({ legacy: true });
    blk.writeStatus(LEGACY_DRIVER_OK);
    expect(fake.settings).toMatchObject({ fixedFraming: true, barrier: false, discard: false });
  });

  it('VIRTIO 6.3: NOTIFY_ON_EMPTY is of no meaning with VERSION_1', () => {
    const { blk, fake } = setUp({ legacy: true });
    drive(blk);
    expect(fake.configs[0]).toMatchObject({ notifyOnEmpty: false });
  });

  it('what the requests may do is what was negotiated', () => {
    const { blk, fake } = setUp({ values: { blockSizeBytes: 4096 } });
    drive(blk, VERSION_1 | feature(blkAbi.VIRTIO_BLK_F_DISCARD));
    expect(fake.settings).toMatchObject({
      fixedFraming: false,
      discard: true,
      writeZeroes: false,
      blockSectors: 8,
      discardSegments: 64,
    });
  });
});

describe('queues', () => {
  it('V80, V81: size and addresses are latched when a queue is enabled', () => {
    const { blk, fake } = setUp();
    drive(blk);
    blk.registers.setSize(0, 64);
    for (const area of ['desc', 'driver', 'device'] as const) {
      blk.registers.setAddress(0, area, 0xdead0000n);
    }
    blk.registers.enable(0);
    const wanted = { size: 128, desc: 0x1000n, driver: 0x2000n, device: 0x3000n };
    expect(blk.registers.settings(0)).toMatchObject(wanted);
    expect(fake.configs[0]).toMatchObject(wanted);
    expect(fake.taken()).toEqual(['attach 0', 'run']);
  });

  it('a queue that is enabled after DRIVER_OK is attached at once', () => {
    const { blk, fake } = setUp({ queues: 2 });
    blk.writeStatus(DRIVER);
    accept(blk, VERSION_1);
    blk.writeStatus(FEATURES_OK);
    blk.writeStatus(DRIVER_OK);
    fake.taken();
    enable(blk, 1);
    expect(fake.taken()).toEqual(['attach 1']);
  });

  it.each([0, 257, 0xffff_ffff])('V08: a size of %d needs a reset', (size) => {
    const { blk, errors } = setUp();
    blk.writeStatus(DRIVER);
    enable(blk, 0, size);
    expect(blk.registers.isEnabled(0)).toBe(false);
    expect(blk.status).toBe(DRIVER | NEEDS_RESET);
    expect(errors[0]).toMatchObject({ code: 'ERR_SLUICE_VIRTQUEUE' });
  });

  it('D5: a ring that cannot be attached needs a reset, and the driver is told', () => {
    const { blk, fake, told, errors } = setUp();
    fake.refuses = 'not in guest memory';
    drive(blk);
    expect(blk.status).toBe(DRIVER_OK | NEEDS_RESET);
    expect(told).toEqual(['up', 'config -1']);
    expect(errors).toHaveLength(1);
  });

  it('a queue that does not exist reads as nothing, and writes are ignored', () => {
    const { blk } = setUp();
    for (const queue of [1, 63, 0xffff_ffff]) {
      enable(blk, queue);
      blk.registers.stop(queue);
      expect(blk.registers.sizeMaxOf(queue)).toBe(0);
      expect(blk.registers.settings(queue)).toBeUndefined();
      expect(blk.registers.isEnabled(queue)).toBe(false);
    }
    expect(blk.status).toBe(0);
  });

  it('VIRTIO 2.6.1: a queue reset ends one queue, which can then be set up anew', async () => {
    const { blk, fake } = setUp({ queues: 2 });
    drive(blk);
    fake.open[1] = 3;
    fake.taken();
    blk.resetQueue(1);
    expect(fake.taken()).toEqual(['reset 1']);
    expect([blk.registers.isEnabled(1), blk.registers.isStopping(1)]).toEqual([true, true]);
    blk.registers.setSize(1, 8);
    blk.notify(1);
    await fake.complete();
    expect([blk.registers.isEnabled(1), blk.registers.isStopping(1)]).toEqual([false, false]);
    expect(blk.registers.settings(1)).toMatchObject({ size: 256, desc: 0n });
    enable(blk, 1, 8);
    expect(fake.taken()).toEqual(['attach 1']);
    expect(fake.configs[1]?.size).toBe(8);
  });

  it('an idle queue is reset at once, and set up again in the same turn', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    blk.resetQueue(0);
    expect(blk.registers.isStopping(0)).toBe(false);
    enable(blk, 0, 16);
    await turn();
    expect(blk.registers.settings(0)).toMatchObject({ size: 16, enabled: true });
    expect(fake.configs[0]?.size).toBe(16);
  });

  it('a queue reset does nothing without RING_RESET', () => {
    const { blk, fake } = setUp();
    drive(blk, VERSION_1);
    fake.taken();
    blk.resetQueue(0);
    expect(fake.taken()).toEqual([]);
  });
});

describe('kicks', () => {
  it('VIRTIO 2.3: reach the queue that they name', () => {
    const { blk, fake } = setUp({ queues: 3 });
    drive(blk, VERSION_1);
    fake.taken();
    for (const value of [2, 0, 3, 0x1_0000, -1, Number.NaN]) blk.notify(value);
    expect(fake.taken()).toEqual(['notify 2', 'notify 0']);
  });

  it('VIRTIO 2.9: with NOTIFICATION_DATA the low 16 bits are the queue', () => {
    const { blk, fake } = setUp({ queues: 3 });
    drive(blk, VERSION_1 | feature(ring.VIRTIO_F_NOTIFICATION_DATA));
    fake.taken();
    for (const value of [0x8001_0002, 0xffff_0001, 0xffff_ffff]) blk.notify(value);
    expect(fake.taken()).toEqual(['notify 2', 'notify 1']);
  });
});

describe('interrupts', () => {
  it('VIRTIO 4.2.2: used buffers set bit 0 and raise the line until acknowledged', () => {
    const { blk, fake, told } = setUp();
    drive(blk);
    fake.events.onInterrupt(0);
    fake.events.onInterrupt(0);
    expect(blk.isr).toBe(1);
    blk.acknowledge(2);
    expect(blk.isr).toBe(1);
    blk.acknowledge(1);
    expect(blk.isr).toBe(0);
    expect(told).toEqual(['up', 'used 0', 'used 0', 'down']);
  });

  it('VIRTIO 2.1.2 (D5): a broken queue sets NEEDS_RESET and is a config interrupt', () => {
    const { blk, fake, told, errors } = setUp({ queues: 2 });
    drive(blk);
    fake.events.onBroken(FAULT);
    expect(blk.status).toBe(DRIVER_OK | NEEDS_RESET);
    expect(told).toEqual(['up', 'config -1']);
    expect(errors[0]?.message).toBe(
      'the driver has broken queue 1 (head 3, descriptor 4): a loop; the device needs a reset',
    );
    fake.taken();
    blk.notify(0);
    expect(fake.taken()).toEqual(['notify 0']);
  });

  it('VIRTIO 5.2.4: a new capacity is a config interrupt, but only after DRIVER_OK', () => {
    const { blk, told } = setUp();
    blk.resized(2 << 20);
    expect(blk.configGeneration).toBe(1);
    expect(told).toEqual([]);
    drive(blk);
    blk.resized(3 << 20);
    expect(blk.configGeneration).toBe(2);
    expect(blk.isr).toBe(2);
    expect(told).toEqual(['up', 'config -1']);
  });

  it('a stopped request is told, and sent again on resume', () => {
    const { blk, fake, told } = setUp();
    drive(blk);
    fake.events.onHeld({ held: 1, offset: 4096, errno: 28 });
    expect(told).toEqual(['stopped at 4096']);
    blk.resume();
    expect(fake.taken()).toContain('resume');
  });
});

describe('reset', () => {
  it('VIRTIO 2.4: status 0 gives everything its first value back', () => {
    const { blk, fake, told } = setUp();
    drive(blk);
    fake.events.onInterrupt(0);
    fake.taken();
    blk.writeStatus(0);
    expect(fake.taken()).toEqual(['stop', 'reset 0']);
    expect([blk.status, blk.isr, blk.features.negotiated]).toEqual([0, 0, 0n]);
    expect(blk.registers.settings(0)).toEqual({
      size: 256,
      desc: 0n,
      driver: 0n,
      device: 0n,
      enabled: false,
    });
    expect(told.at(-1)).toBe('down');
  });

  it('D3: with nothing in flight a driver can start over in the same turn', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    blk.writeStatus(0);
    drive(blk, VERSION_1);
    expect(blk.status).toBe(DRIVER_OK);
    await turn();
    expect(blk.status).toBe(DRIVER_OK);
    expect(blk.registers.isAttached(0)).toBe(true);
    expect(fake.running).toBe(true);
  });

  it('V86: with 64 requests in flight the status reads as before until they are over', async () => {
    const { blk, fake, told } = setUp();
    drive(blk);
    fake.open[0] = 64;
    blk.writeStatus(0);
    expect(blk.status).toBe(DRIVER_OK);
    const over = blk.settled();
    // Nothing reaches the driver, and nothing that it writes counts.
    fake.events.onInterrupt(0);
    blk.writeStatus(ACKNOWLEDGE);
    blk.notify(0);
    blk.acknowledge(3);
    enable(blk);
    expect(told).toEqual([]);
    expect(fake.running).toBe(false);
    await fake.complete();
    await over;
    expect(blk.status).toBe(0);
    expect(told).toEqual([]);
    drive(blk);
    expect(blk.status).toBe(DRIVER_OK);
  });

  it('V86: two resets are one', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    fake.open[0] = 1;
    const first = blk.reset();
    expect(blk.reset()).toBe(first);
    await fake.complete();
    await first;
    expect(fake.taken().filter((call) => call === 'reset 0')).toHaveLength(1);
  });

  it('a reset waits for a queue that is being reset already', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    fake.open[0] = 1;
    blk.resetQueue(0);
    blk.writeStatus(0);
    expect(blk.status).toBe(DRIVER_OK);
    await fake.complete();
    expect(blk.status).toBe(0);
    expect(fake.taken().filter((call) => call === 'reset 0')).toHaveLength(1);
  });

  it('takes NEEDS_RESET away', () => {
    const { blk, fake } = setUp({ queues: 2 });
    drive(blk);
    fake.events.onBroken(FAULT);
    blk.writeStatus(0);
    drive(blk);
    expect(blk.status).toBe(DRIVER_OK);
    expect(blk.registers.isAttached(1)).toBe(true);
  });
});

describe('close', () => {
  it('resets, closes the queues, and ignores the driver from then on', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    fake.taken();
    const closed = blk.close();
    expect(blk.close()).toBe(closed);
    await closed;
    expect(fake.taken()).toEqual(['stop', 'reset 0', 'close']);
    drive(blk);
    expect(blk.status).toBe(0);
    expect(() => blk.resume()).toThrow(expect.objectContaining({ code: 'ERR_SLUICE_CLOSED' }));
  });
});
