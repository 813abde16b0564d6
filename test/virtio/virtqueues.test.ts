// The raw device side: attaching, pausing, detaching and resetting queues, regions of guest memory,
// and what the callbacks are told.

import { describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/virtio-device.ts';
import { VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK } from '../../src/abi/virtio-blk.ts';
import { VIRTQ_DESC_F_NEXT, WRAP_BIT } from '../../src/abi/virtio-ring.ts';
import { SplitDriver } from '../../src/testing/guest/index.ts';
import { type QueueConfig, VirtQueues } from '../../src/virtio/virtqueues.ts';
import { ringErrorText } from '../../src/virtio/virtqueue-texts.ts';
import { DISK_BYTES, RAM_BYTES, RAM_START, type Rig, SETTINGS, setUp } from './rig.ts';

const SECTOR = 512;
const EIO = 5;
const NO_EVENTS = {
  onInterrupt: () => {},
  onBroken: () => {},
  onHeld: () => {},
  onFailure: () => {},
};

function filled(value: number, length = SECTOR): Uint8Array {
  return new Uint8Array(length).fill(value);
}

/** A turn of the event loop. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** True when the promise has settled within a few turns. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  const someTurns = async (): Promise<boolean> => {
    for (let i = 0; i < 5; i++) await turn();
    return false;
  };
  const settled = promise.then(
    () => true,
    () => true,
  );
  return Promise.race([settled, someTurns()]);
}

function emptyConfig(rig: Rig): QueueConfig {
  const config = new SplitDriver({ memory: rig.guest, size: 16 }).config();
  return config;
}

describe('requests', () => {
  for (const packed of [false, true]) {
    const ring = packed ? 'packed' : 'split';
    it(`go from a ${ring} ring to the backend and come back with an interrupt`, () => {
      const { driver, queues, interrupts, backend } = setUp();
      const blk = driver(1, 16, packed);
      const write = blk.write(8, filled(7));
      const read = blk.read(0, SECTOR);
      backend.volatile.fill(5, 0, SECTOR);
      expect(blk.publish()).toBe(true);
      queues.notify(1);
      expect(blk.poll().length).toBe(2);
      expect([write.status, read.status]).toEqual([VIRTIO_BLK_S_OK, VIRTIO_BLK_S_OK]);
      expect(read.data()).toEqual(filled(5));
      expect(backend.volatile.subarray(8 * SECTOR, 9 * SECTOR)).toEqual(filled(7));
      expect(interrupts).toEqual([1]);
      expect(queues.inFlight()).toBe(0);
    });
  }

  it('answer GET_ID with the id, filled up with NUL', () => {
    const { driver, queues } = setUp();
    const blk = driver(0);
    const id = blk.getId();
    blk.publish();
    queues.notify(0);
    blk.poll();
    const bytes = new Uint8Array(20);
    bytes.set(SETTINGS.id);
    expect(id.data()).toEqual(bytes);
  });

  it('go on when the host answers later, without another notification', async () => {
    const { driver, queues, interrupts, backend } = setUp({ backend: { hold: true } });
    const blk = driver(0);
    const read = blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    expect([read.status, queues.inFlight(), queues.inFlight(0)]).toEqual([undefined, 1, 1]);
    backend.releaseAll();
    await turn();
    blk.poll();
    expect([read.status, interrupts]).toEqual([VIRTIO_BLK_S_OK, [0]]);
  });

  it('mix with those of the library, and see what it wrote', async () => {
    const { driver, queues, disk } = setUp();
    await disk.write(0, filled(3));
    const blk = driver(0);
    const read = blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    blk.poll();
    expect(read.data()).toEqual(filled(3));
  });

  it('work in a memory that threads share, also after it has grown', () => {
    const { driver, queues, memory, guest, disk } = setUp({ shared: true });
    const blk = driver(0);
    memory.grow(1);
    guest.refresh();
    const write = blk.write(0, filled(9));
    blk.publish();
    queues.notify(0);
    blk.poll();
    expect([write.status, disk.device.bytes.length]).toEqual([0, memory.buffer.byteLength]);
  });

  it('are not taken before the device runs, and are taken as soon as it does', () => {
    const { driver, queues } = setUp();
    queues.running = false;
    const blk = driver(0);
    const read = blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    expect([queues.running, queues.inFlight(), blk.poll()]).toEqual([false, 0, []]);
    queues.running = true;
    expect(blk.poll()).toEqual([read]);
  });

  it('are not taken without a notification: poll looks at completions only', () => {
    const { driver, queues } = setUp();
    const blk = driver(0);
    blk.read(0, SECTOR);
    blk.publish();
    queues.poll();
    expect(blk.poll()).toEqual([]);
    queues.notify(0);
    expect(blk.poll().length).toBe(1);
  });
});

describe('notify', () => {
  it('may be called from callbacks, and ignores numbers of no queue that is on', () => {
    const rig = setUp();
    const blk = rig.driver(0);
    for (const number of [1, 2, 63, 64, 65_535, 2 ** 32, -1, 0.5, Number.NaN]) {
      rig.queues.notify(number);
    }
    let again = 2;
    rig.interrupts.push = (): number => {
      if (again-- > 0) {
        blk.read(0, SECTOR);
        blk.publish();
      }
      rig.queues.notify(0);
      return 0;
    };
    blk.read(0, SECTOR);
    blk.publish();
    rig.queues.notify(0);
    expect(blk.poll().map(({ status }) => status)).toEqual([0, 0, 0]);
  });

  it('lets a callback throw without keeping the others from being called (V2)', () => {
    const rig = setUp();
    const drivers = [rig.driver(0), rig.driver(1)];
    for (const blk of drivers) {
      blk.read(0, SECTOR);
      blk.publish();
    }
    const told: number[] = [];
    rig.interrupts.push = (queue?: number): number => {
      told.push(queue ?? -1);
      throw new Error('from a callback');
    };
    rig.queues.running = false;
    rig.queues.notify(0);
    rig.queues.notify(1);
    expect(() => {
      rig.queues.running = true;
    }).toThrow('from a callback');
    expect(new Set(told)).toEqual(new Set([0, 1]));
    expect(told.length).toBe(2);
    for (const blk of drivers) expect(blk.poll().length).toBe(1);
  });
});

describe('attach', () => {
  const wrong: readonly [
    what: string,
    change: (config: QueueConfig) => Partial<QueueConfig>,
    text: RegExp,
  ][] = [
    ['V08: no entries', () => ({ size: 0 }), /queue 0: a split ring has a power of two.* not 0/],
    ['V09: 100 entries of a split ring', () => ({ size: 100 }), /power of two.* not 100/],
    ['32769 entries', () => ({ size: 32_769, packed: true }), /1 to 32768 entries, not 32769/],
    ['an odd table', () => ({ desc: RAM_START + 8n }), /desc 0x7f597f220008.* 16, 2 and 4/],
    ['a ring outside', () => ({ device: 0n }), /does not lie in one of the regions 0x7f597f22/],
    ['a ring at the end', () => ({ desc: RAM_START + 0xfff00n, size: 32 }), /does not lie in/],
    ['parts that overlap', ({ desc }) => ({ driver: desc + 128n }), /two parts overlap/],
    [
      'a position that cannot be',
      () => ({ position: { nextAvail: 17, nextUsed: 0 } }),
      /no ring of 16 entries can go on at \{"nextAvail":17,"nextUsed":0\}/,
    ],
  ];
  for (const [what, change, text] of wrong) {
    it(`refuses ${what}, and takes a good ring after it`, () => {
      const rig = setUp();
      const config = emptyConfig(rig);
      const attach = (): void => rig.queues.attach(0, { ...config, ...change(config) });
      expect(attach).toThrow(expect.objectContaining({ code: 'ERR_SLUICE_VIRTQUEUE' }));
      expect(attach).toThrow(text);
      expect(rig.queues.state(0)).toBe('off');
      rig.queues.attach(0, config);
      expect(rig.queues.state(0)).toBe('on');
    });
  }

  it('refuses a queue that is on, and leaves its ring alone', () => {
    const rig = setUp();
    const blk = rig.driver(0);
    expect(() => rig.queues.attach(0, emptyConfig(rig))).toThrow(/it is on; detach or reset it/);
    blk.read(0, SECTOR);
    blk.publish();
    rig.queues.notify(0);
    expect(blk.poll().length).toBe(1);
  });

  it('refuses numbers and switches that are none', () => {
    const rig = setUp();
    const config = emptyConfig(rig);
    const wrongs: unknown[] = [
      { ...config, desc: 5 },
      { ...config, driver: -1n },
      { ...config, device: 2n ** 64n },
      { ...config, packed: 1 },
      { ...config, size: '16' },
      { ...config, position: { nextAvail: 65_536, nextUsed: 0 } },
    ];
    for (const wrong of wrongs) {
      expect(() => rig.queues.attach(0, wrong as QueueConfig)).toThrow(/must be/);
    }
    for (const queue of [-1, 2, 0.5]) {
      expect(() => rig.queues.attach(queue, config)).toThrow(/queue must be .* from 0 to 1/);
    }
    expect(rig.queues.state(0)).toBe('off');
  });

  it('takes at once what is available already', () => {
    const rig = setUp();
    const ring = new SplitDriver({ memory: rig.guest, size: 16 });
    ring.add([{ address: 4096, length: 16, writable: false }]);
    ring.publish();
    rig.queues.attach(0, ring.config());
    // A chain without a status byte comes back with nothing written.
    expect(ring.takeUsed()).toMatchObject({ length: 0 });
  });
});

describe('a driver that breaks a rule', () => {
  it('is reported once, with the place; other queues go on', () => {
    const { driver, queues, faults } = setUp();
    const [bad, good] = [driver(0), driver(1)];
    bad.read(0, SECTOR);
    bad.publish();
    const { queue } = bad;
    if (!(queue instanceof SplitDriver)) throw new Error('not a split ring');
    queue.pokeDescriptor(0, { flags: VIRTQ_DESC_F_NEXT, next: 16 });
    queues.notify(0);
    expect(faults).toEqual([
      {
        queue: 0,
        error: abi.RING_ERROR_NEXT,
        reason: 'next points past the table',
        head: 0,
        descriptor: expect.any(Number),
      },
    ]);
    expect(queues.state(0)).toBe('broken');
    queues.notify(0);
    expect(faults.length).toBe(1);
    good.read(0, SECTOR);
    good.publish();
    queues.notify(1);
    expect(good.poll().length).toBe(1);
  });

  it('has a text for every ring error', () => {
    const names = Object.entries(abi).filter(([name]) => name.startsWith('RING_ERROR_'));
    expect(names.length).toBeGreaterThan(10);
    for (const [, error] of names) expect(ringErrorText(error)).not.toContain(String(error));
  });
});

describe('detach', () => {
  for (const packed of [false, true]) {
    it(`gives the position of a ${packed ? 'packed' : 'split'} ring, to go on from`, async () => {
      const { driver, queues } = setUp();
      const blk = driver(0, 4, packed);
      for (let i = 0; i < 5; i++) {
        blk.read(0, SECTOR);
        blk.publish();
        queues.notify(0);
        expect(blk.poll().length).toBe(1);
      }
      const position = await queues.detach(0);
      // Three descriptors each: 15 of 4 entries is offset 3 after three turns.
      const wanted = packed ? 3 : 5;
      expect(position).toEqual({ nextAvail: wanted, nextUsed: wanted });
      queues.attach(0, { ...blk.queue.config(), position });
      blk.read(0, SECTOR);
      blk.publish();
      queues.notify(0);
      expect(blk.poll().map(({ status }) => status)).toEqual([0]);
    });
  }

  it('gives the position of a new packed ring with both wrap counters set', async () => {
    const { driver, queues } = setUp();
    driver(0, 7, true);
    expect(await queues.detach(0)).toEqual({ nextAvail: WRAP_BIT, nextUsed: WRAP_BIT });
  });

  it('waits for what is in flight and takes nothing more', async () => {
    const { driver, queues, backend } = setUp({ backend: { hold: true } });
    const blk = driver(0);
    const read = blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    const detached = queues.detach(0);
    const late = blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    expect(await isSettled(detached)).toBe(false);
    backend.releaseAll();
    expect(await detached).toEqual({ nextAvail: 1, nextUsed: 1 });
    expect([blk.poll(), late.status, queues.state(0)]).toEqual([[read], undefined, 'off']);
  });

  it('rejects for a queue that is off, and when a reset comes before it', async () => {
    const { driver, queues, backend } = setUp({ backend: { hold: true } });
    await expect(queues.detach(0)).rejects.toThrow('cannot detach queue 0: it is not attached');
    const blk = driver(0);
    blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    const detached = queues.detach(0);
    const reset = queues.reset(0);
    backend.releaseAll();
    await expect(detached).rejects.toThrow('it was reset or detached meanwhile');
    await reset;
  });
});

describe('reset', () => {
  it('V1: leaves the ring alone from the call on, and resolves when the host is done', async () => {
    const { driver, queues, backend, interrupts, guest } = setUp({ backend: { hold: true } });
    const blk = driver(0);
    blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    const reset = queues.reset(0);
    expect(queues.state(0)).toBe('dead');
    const before = guest.bytes(0, RAM_BYTES).slice();
    expect(await isSettled(reset)).toBe(false);
    backend.releaseAll();
    await reset;
    const config = blk.queue.config();
    const used = Number(config.device - RAM_START);
    const ring = guest.bytes(used, 6 + 8 * 16);
    expect(ring).toEqual(before.subarray(used, used + 6 + 8 * 16));
    expect([queues.state(0), queues.inFlight(), interrupts]).toEqual(['off', 0, []]);
  });

  it('can be called twice and for a queue that is off, and allows a new ring after', async () => {
    const { driver, queues } = setUp();
    await queues.reset(0);
    driver(0);
    await Promise.all([queues.reset(0), queues.reset(0)]);
    const blk = driver(0);
    blk.flush();
    blk.publish();
    queues.notify(0);
    expect(blk.poll().map(({ status }) => status)).toEqual([VIRTIO_BLK_S_OK]);
  });
});

describe('guest memory', () => {
  it('must not overlap, must fit, and must be aligned alike', () => {
    const { queues, ram, memory } = setUp();
    const add = (change: object) => () => queues.addRegion({ ...ram, guestAddress: 0n, ...change });
    expect(add({ guestAddress: RAM_START + 4096n })).toThrow(/it overlaps another region/);
    expect(add({ address: RAM_BYTES })).toThrow(/a disk lives at/);
    expect(add({ guestAddress: 8n })).toThrow(/equal modulo 16/);
    const { byteLength } = memory.buffer;
    expect(add({ address: byteLength - 16, sizeBytes: 32 })).toThrow(
      `cannot add guest memory 0x0 (32 bytes at ${byteLength - 16}): ` +
        `the memory has ${byteLength} bytes; grow it first`,
    );
    expect(add({ sizeBytes: 2 ** 32 + 1 })).toThrow(/sizeBytes must be/);
    expect(add({ guestAddress: 0 })).toThrow(/guestAddress must be a bigint/);
  });

  it('goes only when nothing is in flight, and other queues go on after', async () => {
    const { driver, queues, backend, memory, guest } = setUp({ backend: { hold: true } });
    const blk = driver(0);
    memory.grow(1);
    guest.refresh();
    const address = memory.buffer.byteLength - 65_536;
    queues.addRegion({ guestAddress: 0n, sizeBytes: 65_536, address });
    blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    const removed = queues.removeRegion(0n);
    expect(queues.state(0)).toBe('paused');
    blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    expect(await isSettled(removed)).toBe(false);
    backend.releaseAll();
    await removed;
    expect([queues.state(0), backend.held.length]).toEqual(['on', 1]);
    backend.releaseAll();
    await turn();
    expect(blk.poll().length).toBe(2);
    await expect(queues.removeRegion(0n)).rejects.toThrow(/region 0x0: no region starts at/);
  });

  it('that holds a ring stays, and the ring goes on', async () => {
    const { driver, queues } = setUp();
    const blk = driver(0);
    await expect(queues.removeRegion(RAM_START)).rejects.toThrow(/rings of attached queues/);
    blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    expect([blk.poll().length, queues.state(0)]).toEqual([1, 'on']);
  });
});

describe('the error policy', () => {
  it("'stop' holds a request until resume", async () => {
    const { driver, queues, backend, stops } = setUp({ settings: { writeError: 'stop' } });
    const blk = driver(0);
    backend.fail('write', { errno: EIO });
    const write = blk.write(4, filled(1));
    blk.publish();
    queues.notify(0);
    expect(blk.poll()).toEqual([]);
    expect(stops).toEqual([{ held: 1, offset: 4 * SECTOR, errno: EIO }]);
    backend.fail('write', { errno: EIO });
    queues.resume();
    expect([blk.poll(), stops.length]).toEqual([[], 2]);
    queues.resume();
    expect(blk.poll()).toEqual([write]);
    expect(write.status).toBe(VIRTIO_BLK_S_OK);
  });

  it("'report' tells the guest, 'ignore' does not", () => {
    for (const [writeError, status] of [
      ['report', VIRTIO_BLK_S_IOERR],
      ['ignore', VIRTIO_BLK_S_OK],
    ] as const) {
      const { driver, queues, backend } = setUp({ settings: { writeError } });
      const blk = driver(0);
      backend.fail('write', { errno: EIO });
      const write = blk.write(4, filled(1));
      blk.publish();
      queues.notify(0);
      blk.poll();
      expect(write.status).toBe(status);
    }
  });

  it('does not keep the disk from being closed', async () => {
    const { driver, queues, backend, disk } = setUp({ settings: { readError: 'stop' } });
    const blk = driver(0);
    backend.fail('read', { errno: EIO });
    blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    expect(queues.inFlight()).toBe(1);
    await disk.close();
    expect([queues.state(0), queues.inFlight()]).toEqual(['off', 0]);
  });

  it('refuses names that it does not know', () => {
    const { queues } = setUp();
    const configure = (settings: object) => () => queues.configure({ ...SETTINGS, ...settings });
    expect(configure({ readError: 'enospc' })).toThrow(/readError must be/);
    expect(configure({ writeError: 'abort' })).toThrow(/writeError must be/);
    expect(configure({ blockSectors: 3 })).toThrow(/blockSectors must be a power of two/);
    expect(configure({ id: new Uint8Array(21) })).toThrow(/at most 20 bytes, not 21/);
    expect(configure({ barrier: 1 })).toThrow(/barrier must be true or false/);
  });
});

describe('the write cache', () => {
  it('is off for every chain after setWce(false), which resolves after a flush', async () => {
    const { driver, queues, backend } = setUp();
    const blk = driver(0);
    blk.write(0, filled(1));
    blk.publish();
    queues.notify(0);
    const off = queues.setWce(false);
    blk.write(8, filled(2));
    blk.publish();
    queues.notify(0);
    await off;
    expect([queues.wce, blk.poll().length]).toEqual([false, 2]);
    backend.cutPower();
    expect(backend.stable[0]).toBe(1);
    expect(backend.stable[8 * SECTOR]).toBe(2);
  });
});

describe('a disk that changes its size', () => {
  it('takes no chain meanwhile, and judges later ones by the new size', async () => {
    const { driver, queues, disk, backend } = setUp({ backend: { hold: true } });
    const blk = driver(0);
    const first = blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    const resized = disk.resize(2 * DISK_BYTES);
    const beyond = blk.read(DISK_BYTES / SECTOR, SECTOR);
    blk.publish();
    queues.notify(0);
    expect([queues.inFlight(), queues.running]).toEqual([1, true]);
    backend.hold = false;
    backend.releaseAll();
    await resized;
    expect([blk.poll(), first.status, beyond.status]).toEqual([[first, beyond], 0, 0]);
  });

  it('is refused while an error has stopped a request', async () => {
    const { driver, queues, disk, backend } = setUp({ settings: { readError: 'stop' } });
    const blk = driver(0);
    backend.fail('read', { errno: EIO });
    blk.read(0, SECTOR);
    blk.publish();
    queues.notify(0);
    await expect(disk.resize(2 * DISK_BYTES)).rejects.toMatchObject({ code: 'ERR_SLUICE_BUSY' });
    queues.resume();
    await disk.resize(2 * DISK_BYTES);
  });
});

describe('one device on one disk', () => {
  it('is all there may be, until it is closed', async () => {
    const { disk, queues, driver } = setUp();
    expect(() => new VirtQueues(disk.device, NO_EVENTS)).toThrow(/they are in use/);
    expect(() => disk.device.moveTo({ arenaBytes: 65_536 })).toThrow(
      expect.objectContaining({ code: 'ERR_SLUICE_BUSY' }),
    );
    driver(0);
    await queues.close();
    await queues.close();
    disk.device.moveTo({ arenaBytes: 65_536, virtqueues: 1 });
    const other = new VirtQueues(disk.device, NO_EVENTS);
    expect([other.count, other.state(0)]).toEqual([1, 'off']);
    await other.close();
    disk.device.moveTo({ arenaBytes: 65_536 });
    expect(() => new VirtQueues(disk.device, NO_EVENTS)).toThrow(/has moved without any/);
    expect((await disk.read(0, DISK_BYTES)).length).toBe(DISK_BYTES);
  });
});
