/** What the tests of the rings share: both rings on every build, commands and faults by name. */

import { expect } from 'vitest';
import {
  COMMAND_DISCARD,
  COMMAND_MAY_UNMAP,
  COMMAND_READ,
  COMMAND_STABLE,
  COMMAND_SYNC,
  COMMAND_WRITE,
  COMMAND_WRITE_ZEROES,
} from '../../src/abi/command.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import type { BlkDriver } from '../../src/testing/guest/blk.ts';
import { PackedDriver } from '../../src/testing/guest/packed.ts';
import { SplitDriver } from '../../src/testing/guest/split.ts';
import type { CommandRecord } from '../driver.ts';
import { type Build, BUILDS } from '../support/engine.ts';
import { GuestRig, type QueueOptions, type RigOptions } from './rig.ts';

/** A build of the engine and a layout of the ring. */
export interface Face {
  /** E.g. `debug build, packed ring`. */
  readonly name: string;
  readonly build: Build;
  readonly packed: boolean;
}

/** Every build with every ring. */
export const FACES: readonly Face[] = BUILDS.flatMap((build) =>
  [false, true].map((packed) => ({
    name: `${build.name} build, ${packed ? 'packed' : 'split'} ring`,
    build,
    packed,
  })),
);

/** A rig with one queue. */
export function rigWith(
  { build, packed }: Face,
  queue: QueueOptions = {},
  options: RigOptions = {},
): { rig: GuestRig; driver: BlkDriver } {
  const rig = new GuestRig(build, options);
  return { rig, driver: rig.addQueue(0, { packed, ...queue }) };
}

/** The queue of a driver, which is a split one. */
export function splitOf(driver: BlkDriver): SplitDriver {
  if (driver.queue instanceof SplitDriver) return driver.queue;
  throw new Error('the queue is packed');
}

/** The queue of a driver, which is a packed one. */
export function packedOf(driver: BlkDriver): PackedDriver {
  if (driver.queue instanceof PackedDriver) return driver.queue;
  throw new Error('the queue is split');
}

/** Shows the device what was made, notifies it, and lets it run once. */
export function send(rig: GuestRig, driver: BlkDriver, index = 0): void {
  driver.publish();
  rig.notify(index);
  rig.pump();
}

const OPERATIONS: Readonly<Record<number, string>> = {
  [COMMAND_READ]: 'READ',
  [COMMAND_WRITE]: 'WRITE',
  [COMMAND_WRITE_ZEROES]: 'ZERO',
  [COMMAND_DISCARD]: 'DISCARD',
  [COMMAND_SYNC]: 'SYNC',
};

/** A command in one word: `WRITE 512+1024`; `STABLE WRITE`, `UNMAP ZERO`; offsets in bytes. */
export function nameOf({ op, flags, offset, length }: CommandRecord): string {
  const name = OPERATIONS[op] ?? `command ${op}`;
  if (op === COMMAND_SYNC) return name;
  const stable = op === COMMAND_WRITE && (flags & COMMAND_STABLE) !== 0 ? 'STABLE ' : '';
  const unmap = op === COMMAND_WRITE_ZEROES && (flags & COMMAND_MAY_UNMAP) !== 0 ? 'UNMAP ' : '';
  return `${stable}${unmap}${name} ${offset}+${length}`;
}

/** The names of the commands that the host has and has not answered. */
export function waiting(rig: GuestRig): string[] {
  return rig.inFlight.map(nameOf);
}

/** The names of all commands so far. */
export function sent(rig: GuestRig): string[] {
  return rig.commands.map(nameOf);
}

/** Answers a command by its name, and lets the device run once. */
export function answer(rig: GuestRig, name: string): void {
  const which = rig.inFlight.findIndex((command) => nameOf(command) === name);
  if (which < 0) throw new Error(`${name} is not among ${waiting(rig).join(', ')}`);
  rig.answer(which);
  rig.pump();
}

/** What the engine says of a queue that a driver has broken. */
export function expectBroken(rig: GuestRig, error: number, index = 0): void {
  expect(rig.queueWord(abi.QUEUE_STATE, index)).toBe(abi.QUEUE_BROKEN);
  expect(rig.queueWord(abi.QUEUE_ERROR, index)).toBe(error);
  expect(rig.takeBroken()).toBe(1n << BigInt(index));
}

/** Nothing is in flight, and the queue is on. */
export function expectIdle(rig: GuestRig, index = 0): void {
  expect(rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(0);
  expect(rig.queueWord(abi.QUEUE_IN_FLIGHT, index)).toBe(0);
  expect(rig.queueWord(abi.QUEUE_STATE, index)).toBe(abi.QUEUE_ON);
  expect(rig.takeBroken()).toBe(0n);
}

/** Bytes that count up from `first`. */
export function pattern(length: number, first = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (first + index * 7) & 0xff);
}

/** What a fresh disk holds in these sectors. */
export function fresh(sector: number, sectors: number): Uint8Array {
  return Uint8Array.from(
    { length: sectors * 512 },
    (_, at) => (sector + Math.floor(at / 512)) & 255,
  );
}

/** Writes the flags of a descriptor of the ring, and leaves what makes it available. */
export function addFlags(driver: BlkDriver, index: number, flags: number): void {
  const { memory } = driver.queue;
  const queue = driver.queue.packed ? packedOf(driver) : splitOf(driver);
  const at = queue.descriptorPlace(index) + (driver.queue.packed ? 14 : 12);
  memory.setU16(at, memory.getU16(at) | flags);
}

/** Nothing was begun for a chain that has broken its queue. */
export function expectRefused(rig: GuestRig, driver: BlkDriver, error: number): void {
  expectBroken(rig, error);
  expect(rig.commands).toEqual([]);
  expect(rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(0);
  expect(driver.poll()).toEqual([]);
}
