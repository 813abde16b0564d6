/**
 * V82 and V83 once more, with a second processor: a worker writes to the guest's memory while the
 * shared build of the engine reads it. Everything is bounded by steps, and nothing by time.
 */

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { ROOT } from '../../bench/root.ts';
import { COMMAND_READ, COMMAND_WRITE } from '../../src/abi/command.ts';
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../src/abi/virtio-blk.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import type { Build } from '../support/engine.ts';
import { firstDifference } from './bad-inputs/foretold.ts';
import {
  BODY,
  DESC,
  DEVICE,
  DRIVER,
  HEADER,
  MEM,
  N,
  type Part,
  STATUS,
  TABLE,
  W,
  World,
} from './bad-inputs/world.ts';

const SHARED: Build = {
  name: 'shared',
  module: new WebAssembly.Module(readFileSync(join(ROOT, 'build', 'engine.shared.wasm'))),
};

/** What every buffer lies in that the guest ever names: headers, data, tables. */
const NAMED_END = TABLE + 0x8000;
/** Page of the guest's RAM for what this test and its worker tell each other. */
const CONTROL = 0xf_0000;
/** What is nowhere an address, a length of something, nor flags that mean much. */
const FILL = 0xee;

const IN = VIRTIO_BLK_T_IN;
const OUT = VIRTIO_BLK_T_OUT;
const ENTRIES = 16;
/** Chains of three that the ring has room for. */
const CHAINS = 5;
const ITERATIONS = 3000;
/** So many when the worker was not there in time. */
const MOST_ITERATIONS = 20_000;
/** The last three run past the guest's RAM from anywhere: by a page, and by more than there is. */
const LENGTHS = [0, 1, 1, 15, 16, 16, 48, 512, 512, 513, 1024, 0xf_0001, 0xf_0001, 0xffff_ffff];

function createWorld(packed: boolean, size: number): World {
  return new World(SHARED, packed, 'middle', { shared: true, size });
}

/** Starts a worker over the memory of a world. */
function startWorker(world: World, name: string, data: object): Worker {
  const { buffer } = world.rig.memory;
  const control = world.place(CONTROL);
  const workerData = { buffer, control, packed: world.packed, ...data };
  return new Worker(join(ROOT, 'test/ring/bad-inputs', name), { workerData });
}

function controlOf(world: World): Int32Array {
  return new Int32Array(world.rig.memory.buffer, world.place(CONTROL), 2);
}

/** What the flipper changes, and into what. */
function flipsOf(world: World): object {
  const inside = [HEADER, BODY, BODY + 512, BODY + 8, STATUS, TABLE, TABLE + 0x1000];
  const address = Number(world.base & 0xffff_ffffn);
  return {
    tables: [
      { place: world.place(DESC), entries: ENTRIES },
      { place: world.place(TABLE), entries: 3 },
    ],
    // The last is in no region, but in the memory.
    low: [...inside, MEM + 0x8000].map((at) => address + at),
    high: [0x7f59, 0x7f59, 0x7f59, 0xffff_ffff],
    lengths: LENGTHS,
    // Of a packed ring what is available changes too.
    mask: world.packed ? 0x8087 : 0x0007,
  };
}

/** A proper chain over the ring's entries, directly or by the same table for all. */
function writeChains(world: World, round: number): void {
  const type = round % 3 === 0 ? OUT : IN;
  const data: Part = { at: BODY, length: 512, flags: type === IN ? W : 0 };
  const status: Part = { at: STATUS, length: 1, flags: W };
  const header = world.header(type, 3);
  world.view.setUint32(HEADER + 4, 0xeeee_eeee, true);
  const parts = [header, data, status];
  const table = world.table(parts);
  const direct = round % 2 === 0;
  for (let entry = 0; entry + 3 <= ENTRIES; entry += 3) {
    for (const [index, part] of parts.entries()) {
      const flags = part.flags | (index < 2 ? N : 0);
      const written = direct ? { ...part, flags } : table;
      if (world.packed) world.putSlot(entry + index, written, direct ? entry : entry + index);
      else world.put(entry + index, written, entry + index + 1);
    }
  }
}

/** Makes all chains of the ring available. */
function offerChains(world: World, offered: number): void {
  if (world.packed) return;
  for (let i = 0; i < CHAINS; i++) {
    world.view.setUint16(DRIVER + 4 + ((offered + i) % ENTRIES) * 2, 3 * i, true);
  }
  world.view.setUint16(DRIVER + 2, offered + CHAINS, true);
}

/** Sees that every command stays in the buffers that the guest has named. */
function checkCommands(world: World): void {
  for (const { op, table } of world.rig.inFlight) {
    if (op !== COMMAND_READ && op !== COMMAND_WRITE) continue;
    const first = world.place(HEADER);
    const end = world.place(NAMED_END);
    const inside = table.every(
      ({ address, length }) => address >= first && address + length <= end,
    );
    expect(inside).toBe(true);
  }
}

/** A few calls of the engine, with the answers of the host between them. */
function pumpAFew(world: World): void {
  world.rig.notify(0);
  for (let calls = 0; calls < 3; calls++) {
    world.rig.pump();
    checkCommands(world);
    while (world.rig.inFlight.length > 0) world.rig.answer();
  }
}

/** The queue is off: whatever it has been through, it is a new one. */
function attachAnew(world: World): void {
  world.rig.reset(0);
  world.ram.fill(0, DRIVER, DRIVER + 0x100);
  world.ram.fill(0, DEVICE, DEVICE + 0x100);
  expect(world.rig.attach(0, world.config())).toBe(0);
}

/** The guest's RAM but for what the guest's second processor and the device may write. */
function restOf(world: World): Uint8Array {
  const rest = world.ram.slice();
  rest.fill(0, DESC, ENTRIES * 16);
  rest.fill(0, DRIVER, DRIVER + 0x100);
  rest.fill(0, DEVICE, DEVICE + 0x100);
  rest.fill(0, HEADER, NAMED_END);
  rest.fill(0, CONTROL, CONTROL + 8);
  return rest;
}

/** Chains over descriptors that change all the time; how often the queue broke, and did not. */
function raceFlips(world: World): { broken: number; whole: number } {
  let broken = 0;
  let offered = 0;
  let round = 0;
  const never = new Int32Array(new SharedArrayBuffer(4));
  for (; round < ITERATIONS || (broken === 0 && round < MOST_ITERATIONS); round++) {
    // The worker may have no processor of its own.
    if (round >= ITERATIONS) Atomics.wait(never, 0, 0, 1);
    writeChains(world, round);
    offerChains(world, offered);
    offered += CHAINS;
    pumpAFew(world);
    const isBroken = world.rig.queueWord(abi.QUEUE_STATE) === abi.QUEUE_BROKEN;
    if (isBroken) broken++;
    if (!isBroken && !world.packed) continue;
    offered = 0;
    attachAnew(world);
  }
  return { broken, whole: round - broken };
}

/** Pumps until so many reads have come back, or the worker can no longer be heard of. */
function pumpUntilRead(world: World, count: number): void {
  const control = controlOf(world);
  const never = new Int32Array(new SharedArrayBuffer(4));
  let idle = 0;
  while (Atomics.load(control, 0) < count && idle < 20_000) {
    const before = world.rig.commands.length;
    world.rig.notify(0);
    world.rig.pump();
    while (world.rig.inFlight.length > 0) world.rig.answer();
    idle = world.rig.commands.length > before ? 0 : idle + 1;
    // The worker may have no processor of its own.
    if (idle > 10) Atomics.wait(never, 0, 0, 1);
  }
}

/** The last of it: everything in flight comes back, and the rings may be let go. */
function finish(world: World): void {
  world.rig.reset(0);
  world.rig.takeInterrupts();
  world.rig.takeBroken();
  world.disk.set(world.rig.disk);
  world.keep();
  world.end();
}

describe.each([false, true])('with a second processor, packed: %s', (packed) => {
  it('V82: descriptors that change while they are read lead nowhere else', async () => {
    const world = createWorld(packed, ENTRIES);
    world.rig.disk.fill(FILL);
    world.ram.fill(FILL, HEADER, NAMED_END);
    writeChains(world, 0);
    const before = restOf(world);
    const worker = startWorker(world, 'flipper.mjs', flipsOf(world));
    expect(Atomics.wait(controlOf(world), 0, 0, 30_000)).not.toBe('timed-out');
    const outcome = raceFlips(world);
    Atomics.store(controlOf(world), 1, 1);
    await once(worker, 'exit');
    expect(outcome.broken).toBeGreaterThan(0);
    expect(outcome.whole).toBeGreaterThan(0);
    expect(firstDifference(restOf(world), before)).toBeUndefined();
    finish(world);
  });

  it('V83: what is made available while the device takes comes back, once and whole', async () => {
    const world = createWorld(packed, ENTRIES);
    const count = 4000;
    const places = { headers: HEADER, data: BODY, desc: DESC };
    for (let slot = 0; slot < ENTRIES / 2; slot++) {
      world.header(IN, 0, HEADER + 16 * slot);
      const header = { at: HEADER + 16 * slot, length: 16, flags: N };
      const data = { at: BODY + 513 * slot, length: 513, flags: W };
      world.put(2 * slot, packed ? { ...header, flags: 0 } : header, 2 * slot + 1);
      world.put(2 * slot + 1, packed ? { ...data, flags: 0 } : data, 0);
    }
    const all = { ...places, driver: DRIVER, device: DEVICE };
    const entries = Object.entries(all).map(([name, at]) => [name, world.place(at)]);
    const data = { ...Object.fromEntries(entries), size: ENTRIES, count };
    const worker = startWorker(world, 'publisher.mjs', data);
    pumpUntilRead(world, count);
    expect([...controlOf(world)]).toEqual([count, 0]);
    await once(worker, 'exit');
    expect(world.rig.queueWord(abi.QUEUE_STATE)).toBe(abi.QUEUE_ON);
    finish(world);
  });
});
