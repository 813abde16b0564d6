// States of an emulator that does not run: taken, restored, refused, and what happens meanwhile.

import { describe, expect, it } from 'vitest';
import { attachVirtioBlk, type V86VirtioBlkOptions } from '../../src/v86.ts';
import { PciGuest } from './pci-guest.ts';
import { makeDisk, makeEmulator, MIB, setUp, SMALL } from './rig.ts';

const code = (code: string) => expect.objectContaining({ code }) as Error;
const turns = () => new Promise((resolve) => setTimeout(resolve, 20));
/** Where in v86's state the size of RAM is, and where ours is. */
const RAM = 0;
const DISKS = 256;

type Rig = Awaited<ReturnType<typeof setUp>>;
type Fields = Record<string, unknown>;

/** A state that somebody has had in his hands. */
async function stateOf({ emulator, guest }: Rig, alter: (state: unknown[]) => void) {
  const { cpu } = guest;
  const getState = cpu.get_state.bind(cpu);
  cpu.get_state = () => {
    const state = getState();
    alter(state);
    return state;
  };
  try {
    return await emulator.save_state();
  } finally {
    cpu.get_state = getState;
  }
}

/** The same of the parts of the disks. */
function partsOf(rig: Rig, alter: (parts: { slot: unknown; state: Fields }[]) => unknown) {
  return stateOf(rig, (state) => {
    state[DISKS] = JSON.stringify(alter(JSON.parse(state[DISKS] as string) as []));
  });
}

/** A machine at work refuses a state, and goes on as if nothing had been. */
async function refuses({ emulator, guest, errors }: Rig, state: ArrayBuffer, text: string) {
  const [slot = 0] = guest.slots;
  const driver = guest.boot(slot);
  const read = driver.read(0, 4096);
  await guest.finish(slot, driver);
  const ram = guest.cpu.mem8.slice();
  const refused = emulator.restore_state(state);
  await expect(refused).rejects.toThrow(code('ERR_SLUICE_INVALID_ARGUMENT'));
  await expect(refused).rejects.toThrow(text);
  expect(Buffer.compare(guest.cpu.mem8.slice(), ram)).toBe(0);
  const flush = driver.flush();
  await guest.finish(slot, driver);
  expect([read.status, flush.status, guest.read(slot, 0x14, 1), errors]).toEqual([0, 0, 15, []]);
}

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

  it.each<[string, Parameters<typeof makeDisk>[0], V86VirtioBlkOptions]>([
    ['capacityBytes was 1048576 and is 2097152', { sizeBytes: 2 * MIB }, {}],
    ['blockSizeBytes was 512 and is 4096', {}, { blockSizeBytes: 4096 }],
    ['readOnly was false and is true', { readOnly: true }, {}],
    ['serial was "a" and is "b"', {}, { serial: 'b' }],
    ['the state has a disk in slot 13, and none is attached there', {}, { slot: 20 }],
    ['the disk in slot 13: the state does not fit', {}, { features: { packed: false } }],
    ['the disk in slot 13: queues[0].size must be', {}, { queueSizeMax: 32 }],
    ['the disk in slot 13: queues must be a list of 2', {}, { queues: 2 }],
  ])('E2: a state of another disk is refused: %s', async (text, disk, options) => {
    const first = await setUp({ serial: 'a' });
    first.guest.boot(first.slot, true);
    const state = await first.emulator.save_state();
    const machine = await setUp({ serial: 'a', ...options }, makeDisk(disk));
    await refuses(machine, state, text);
  });

  it('a copy of the disk that its host keeps otherwise will do', async () => {
    const { emulator, guest, slot } = await setUp({ serial: 'a' });
    guest.boot(slot);
    const state = await emulator.save_state();
    const copy = makeDisk({ blockSizeBytes: 4096 }, { cache: 'writethrough' });
    const second = await setUp({ serial: 'a', arenaBytes: 2 * 65_536, readError: 'stop' }, copy);
    await second.emulator.restore_state(state);
    expect([second.blk.status, second.blk.wce, second.errors]).toEqual([15, true, []]);
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

  it('a state that was taken after a disk had gone resets the one that is there', async () => {
    const { emulator, slot, blk } = await setUp();
    await attachVirtioBlk(emulator, makeDisk().disk, { ...SMALL, slot: slot + 1 });
    await blk.close();
    const state = await emulator.save_state();
    const second = await setUp();
    await attachVirtioBlk(second.emulator, makeDisk().disk, { ...SMALL, slot: slot + 1 });
    second.guest.boot(slot);
    await second.emulator.restore_state(state);
    expect([second.blk.status, second.guest.slots]).toEqual([0, [slot, slot + 1]]);
    const driver = second.guest.boot(slot);
    const flush = driver.flush();
    await second.guest.finish(slot, driver);
    expect(flush.status).toBe(0);
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

describe('E2: a state that is damaged, or made to harm', () => {
  it.each<[string, boolean, Fields]>([
    ['a split ring has a power of two of entries up to 32768, not 3', false, { size: 3 }],
    ['size must be a whole number from 0 to 256, not 257', false, { size: 257 }],
    ['driver 0x100001, device', false, { driver: '0x100001' }],
    ['desc 0xffffffff000, driver', false, { desc: '0xffffffff000' }],
    ['device 0x1000000, 64 entries: a part does not lie in', false, { device: '0x1000000' }],
    ['must be multiples of 16, 4 and 4', true, { device: '0x100002' }],
    ['nextAvail must be a whole number from 0 to 65535, not 65536', false, { nextAvail: 65_536 }],
    ['no ring of 64 entries can go on at {"nextAvail":65,', false, { nextAvail: 65 }],
    ['can go on at {"nextAvail":32832,', true, { nextAvail: 32_832, nextUsed: 32_832 }],
    ['can go on at {"nextAvail":0,', true, { nextAvail: 0, nextUsed: 32_768 }],
    ['nextAvail must be a number, not null', false, { nextAvail: null, nextUsed: null }],
    ['nextAvail must be null', false, { enabled: false }],
  ])('is refused, and the machine goes on: %s', async (text, packed, change) => {
    const rig = await setUp();
    rig.guest.boot(rig.slot, packed);
    const state = await partsOf(rig, (parts) =>
      parts.map(({ slot, state }) => {
        const [queue] = state['queues'] as [Fields];
        return { slot, state: { ...state, queues: [{ ...queue, ...change }] } };
      }),
    );
    await refuses(await setUp(), state, 'the disk in slot 13: queues[0]');
    await refuses(rig, state, text);
  });

  it.each<[string, (parts: { slot: unknown; state: Fields }[]) => unknown]>([
    ['the state has two disks in slot 13', ([one]) => [one, one]],
    ['a disk in slot "13", and none', ([one]) => [{ ...one, slot: '13' }]],
    ['disk must be an object', ([one]) => [{ ...one, state: { ...one!.state, disk: 1 } }]],
    ['the disk in slot 13: the state must be', ([one]) => [{ ...one, state: null }]],
    ['not as save_state() has left them', () => ({})],
    ['not as save_state() has left them', () => [null]],
  ])('names its disks wrongly: %s', async (text, alter) => {
    const rig = await setUp();
    rig.guest.boot(rig.slot);
    await refuses(rig, await partsOf(rig, alter), text);
  });

  it('of a machine with more memory would lead the guest into the engine', async () => {
    const rig = await setUp();
    const state = await stateOf(rig, (parts) => (parts[RAM] = 32 * MIB));
    await refuses(
      rig,
      state,
      'of a machine with 33554432 bytes of memory, and this one has 16777216',
    );
  });

  it('that v86 itself finds too late resets the disks, and another try goes well', async () => {
    const rig = await setUp();
    const { emulator, guest, slot, blk } = rig;
    guest.boot(slot);
    const good = await emulator.save_state();
    const bad = await stateOf(rig, (parts) => (parts[77] = null));
    await expect(emulator.restore_state(bad)).rejects.toThrow();
    expect([blk.status, emulator.is_running(), guest.slots]).toEqual([0, false, [slot]]);
    await emulator.restore_state(good);
    expect(blk.status).toBe(15);
  });

  it('is one of a driver that had misplaced its rings: restored as it was', async () => {
    const { emulator, guest, slot, errors } = await setUp();
    guest.write(slot, 0x14, 1, 3);
    guest.write(slot, 0x08, 4, 1);
    guest.write(slot, 0x0c, 4, 1);
    guest.write(slot, 0x14, 1, 11);
    for (const at of [0x20, 0x28, 0x30]) guest.write(slot, at, 4, 0x8000_0000);
    guest.write(slot, 0x1c, 2, 1);
    guest.write(slot, 0x14, 1, 15);
    const state = await emulator.save_state();
    await emulator.restore_state(state);
    expect([guest.read(slot, 0x14, 1), errors.length]).toEqual([0x4f, 1]);
  });
});

describe('E4: while a state is restored', () => {
  /** Two disks; the restore waits for a read of the second. */
  async function restoring() {
    const rig = await setUp();
    const { emulator, guest, slot } = rig;
    const held = makeDisk();
    const other = await attachVirtioBlk(emulator, held.disk, SMALL);
    guest.boot(slot);
    const driver = guest.boot(slot + 1);
    const state = await emulator.save_state();
    held.backend.hold = true;
    driver.read(0, 4096);
    guest.kick(slot + 1, driver);
    const restored = emulator.restore_state(state);
    await turns();
    const release = () => {
      held.backend.hold = false;
      held.backend.releaseAll();
    };
    return { ...rig, other, restored, release, bars: [slot, slot + 1].map((at) => guest.bar(at)) };
  }

  /** A slot is empty, and can be used again. */
  async function isFree(run: Awaited<ReturnType<typeof restoring>>, at: number) {
    const { emulator, guest, slot, bars } = run;
    const bar = bars[at - slot] ?? 0;
    expect([guest.config(at, 0), guest.cpu.io.ports[bar]?.device]).toEqual([
      0xffff_ffff,
      undefined,
    ]);
    const blk = await attachVirtioBlk(emulator, makeDisk().disk, { ...SMALL, slot: at });
    expect(guest.slots).toContain(at);
    await blk.close();
  }

  it.each(['device', 'disk'])('a %s that is closed at once leaves nothing behind', async (what) => {
    const run = await restoring();
    const { emulator, guest, slot, blk, disk, other, restored, release } = run;
    await (what === 'device' ? blk.close() : disk.close());
    release();
    await restored;
    expect([guest.slots, other.status]).toEqual([[slot + 1], 15]);
    await isFree(run, slot);
    await emulator.restore_state(await emulator.save_state());
    expect([guest.slots, other.status]).toEqual([[slot + 1], 15]);
  });

  it('a device that is on its way out neither hinders nor stays', async () => {
    const run = await restoring();
    const { guest, slot, blk, other, restored, release } = run;
    const closing = other.close();
    release();
    await Promise.all([restored, closing]);
    expect([guest.slots, blk.status]).toEqual([[slot], 15]);
    await isFree(run, slot + 1);
  });

  it('a device that closes when the state is in place is gone, too', async () => {
    const run = await restoring();
    const { guest, slot, blk, restored, release } = run;
    const { cpu } = guest;
    const { pci } = cpu.devices as unknown as { pci: { set_state(state: unknown): void } };
    const setState = pci.set_state.bind(pci);
    let closing: Promise<void> | undefined;
    pci.set_state = (state) => {
      setState(state);
      closing = blk.close();
    };
    release();
    await restored;
    await closing;
    expect(guest.slots).toEqual([slot + 1]);
    await isFree(run, slot);
  });

  it('a disk that is attached waits, and finds a slot of its own', async () => {
    const { emulator, guest, slot, blk, restored, release } = await restoring();
    await blk.close();
    const attached = attachVirtioBlk(emulator, makeDisk().disk, SMALL);
    await turns();
    expect(guest.slots).toEqual([slot + 1]);
    release();
    await restored;
    expect([(await attached).status, guest.slots]).toEqual([0, [slot, slot + 1]]);
  });

  it('no state is taken of a disk that closes, and the next one has none of it', async () => {
    const { emulator, guest, slot, blk } = await setUp();
    const held = makeDisk();
    const other = await attachVirtioBlk(emulator, held.disk, SMALL);
    const driver = guest.boot(slot + 1);
    held.backend.hold = true;
    driver.read(0, 4096);
    guest.kick(slot + 1, driver);
    const saved = emulator.save_state();
    await turns();
    await blk.close();
    held.backend.hold = false;
    held.backend.releaseAll();
    await expect(saved).rejects.toThrow(code('ERR_SLUICE_BUSY'));
    await emulator.restore_state(await emulator.save_state());
    expect([guest.slots, other.status]).toEqual([[slot + 1], 15]);
  });

  it('a state whose disk was closed before it is looked at is refused', async () => {
    const { emulator, guest, slot, blk } = await setUp();
    guest.boot(slot);
    const state = await emulator.save_state();
    const restored = emulator.restore_state(state);
    const closed = blk.close();
    await expect(restored).rejects.toThrow('in slot 13, and none is attached there');
    await closed;
    expect(guest.slots).toEqual([]);
  });
});
