// onWritten: the owner of the memory hears where requests have written, before the driver does.

import { afterEach, describe, expect, it } from 'vitest';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import { footprintBytes } from '../../src/place.ts';
import { BlkDriver, createDriverQueue, GuestMemory } from '../../src/testing/guest/index.ts';
import { createVirtioBlk } from '../../src/virtio/create-virtio-blk.ts';
import type { VirtioBlkOptions } from '../../src/virtio/virtio-blk-options.ts';
import { turn } from './fake-queues.ts';

const MIB = 1 << 20;
const ARENA_BYTES = 65_536;
/** Where guest RAM begins in the memory. */
const RAM_AT = 65_536;
const disks: Disk[] = [];

afterEach(async () => {
  await Promise.all(disks.splice(0).map((disk) => disk.close()));
});

type OnWritten = NonNullable<VirtioBlkOptions['onWritten']>;

function setUp(packed: boolean, onWritten: OnWritten) {
  const backend = new MemoryBackend({ sizeBytes: MIB });
  const disk = new Disk(backend, { bufferBytes: ARENA_BYTES });
  disks.push(disk);
  const base = RAM_AT + MIB;
  const bytes = base + footprintBytes({ base, virtqueues: 1, arenaBytes: ARENA_BYTES });
  const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65_536) });
  const ram = { guestAddress: 0n, address: RAM_AT, sizeBytes: MIB };
  const errors: Error[] = [];
  const blk = createVirtioBlk(disk, {
    memory,
    base,
    arenaBytes: ARENA_BYTES,
    ram: [ram],
    onWritten,
    onError: (error) => errors.push(error),
  });
  const guest = new GuestMemory(memory, [ram]);
  const queue = createDriverQueue(packed, { memory: guest, size: 64 });
  blk.queues.attach(0, queue.config());
  blk.queues.running = true;
  const driver = new BlkDriver({ queue });
  const finish = async (): Promise<void> => {
    if (driver.publish()) blk.queues.notify(0);
    for (let turns = 0; queue.inFlight > 0 && turns < 100; turns++) {
      await turn();
      driver.poll();
    }
  };
  return { backend, blk, driver, queue, finish, errors };
}

describe.each([false, true])('a watched guest with a packed ring: %s', (packed) => {
  it('U5: is told of data and status, before the used entry is there', async () => {
    const written: (readonly [number, number])[] = [];
    let inFlight = 0;
    const { driver, queue, finish } = setUp(packed, (address, length) => {
      written.push([address, length]);
      driver.poll();
      inFlight = queue.inFlight;
    });
    await finish();
    driver.write(0, new Uint8Array(4096).fill(5));
    await finish();
    expect(written.map(([, length]) => length)).toEqual([1]);
    const read = driver.read(0, 4096);
    await finish();
    expect(inFlight).toBe(1);
    expect(read.status).toBe(0);
    expect(written.slice(1).reduce((sum, [, length]) => sum + length, 0)).toBe(4096 + 1);
    expect(written.every(([from, length]) => from >= RAM_AT && from + length <= RAM_AT + MIB)).toBe(
      true,
    );
  });

  it('is not told of data that a failed read has left undefined', async () => {
    const lengths: number[] = [];
    const { backend, driver, finish } = setUp(packed, (_, length) => lengths.push(length));
    backend.fail('read');
    const read = driver.read(0, 512);
    await finish();
    expect([read.status, lengths]).toEqual([1, [1]]);
  });

  it('a callback that throws stops the device, and no chain is lost', async () => {
    const { blk, driver, finish, errors } = setUp(packed, () => {
      throw new Error('mine');
    });
    const flush = driver.flush();
    await finish();
    expect([flush.status, errors.map(({ message }) => message)]).toEqual([0, ['mine']]);
    expect(blk.queues.running).toBe(false);
    await blk.close();
  });
});

describe('options', () => {
  it.each<[Partial<VirtioBlkOptions>, string]>([
    [{ ramBytes: MIB, onWritten: () => undefined }, 'onWritten goes with memory'],
    [{ ramBytes: MIB, onWritten: 5 as never }, 'onWritten must be a function'],
    [
      {
        memory: new WebAssembly.Memory({ initial: 1 }),
        base: 0,
        features: { inOrder: true },
        onWritten: () => undefined,
      },
      'onWritten and IN_ORDER exclude each other',
    ],
  ])('%o is refused', (options, message) => {
    const disk = new Disk(new MemoryBackend({ sizeBytes: MIB }), { bufferBytes: ARENA_BYTES });
    disks.push(disk);
    expect(() => createVirtioBlk(disk, options)).toThrow(message);
  });
});

describe('onClosed', () => {
  it('is called once, whether the device or its disk is closed', async () => {
    for (const which of ['device', 'disk'] as const) {
      const disk = new Disk(new MemoryBackend({ sizeBytes: MIB }), { bufferBytes: ARENA_BYTES });
      let calls = 0;
      const blk = createVirtioBlk(disk, {
        ramBytes: MIB,
        arenaBytes: ARENA_BYTES,
        onClosed: () => (calls += 1),
      });
      await (which === 'disk' ? disk.close() : blk.close());
      await disk.close();
      expect([calls, blk.status]).toEqual([1, 0]);
    }
  });
});
