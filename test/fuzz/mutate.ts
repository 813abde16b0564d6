/** Changes of inputs: bytes, parameters, whole actions, and what two inputs have in common. */

import type { Random } from '../engine/random.ts';
import { ACTION_BYTES, ACTIONS_MAX, actionCount, HEADER_BYTES } from './input.ts';

/** What makes inputs of one kind likely to do something. */
export interface Grammar {
  /** Actions that belong together, one byte for each parameter. */
  readonly phrases: readonly (readonly number[])[];
  /** Makes a random setup one that is taken, as a rule. */
  readonly tame: (random: Random, setup: Uint8Array) => void;
}

/** Bytes at which something begins: sizes of tables, top bits, the last of everything. */
const DICTIONARY = [0, 1, 2, 3, 7, 8, 15, 16, 31, 63, 64, 127, 128, 192, 224, 255];

/**
 * Actions of the engine's host (input.ts): the requests of one cell, a flush between them, a ring
 * that is full, a reset of what is under way.
 */
const PHRASES: readonly (readonly number[])[] = [
  [0x00, 0, 0, 0, 5, 2], // a write
  [0x00, 0, 1, 0, 5, 2], // the same, stable
  [0x00, 0, 8, 0, 5, 2], // a barrier
  [0x00, 1, 8, 1, 5, 2], // a barrier that reads
  [0x00, 2, 7, 0, 5, 2], // zeroes, stable, unmapping, fast
  [0x00, 1, 0, 0, 5, 2], // a read
  [0x00, 4, 0, 0, 5, 2], // block status
  [0x00, 0, 0, 0, 1, 0], // a write beside the next one
  [0x07, 1, 0, 0, 3, 11, 0, 1], // a write with empty segments
  [0x04, 0, 0, 0], // a flush
  [0x04, 0, 8, 0], // a flush that is a barrier
  [0x01, 0], // a pump
  [0x02, 0, 0, 0xff, 0], // all answered
  [0x02, 0, 0, 0, 0], // one answered
  [0x02, 0, 4, 0, 0], // one failed
  [0x02, 0, 0x40, 0xff, 0], // all answered, a sync failed
  [0x05, 0, 0, 0, 0], // the write cache goes off
  [0x05, 0, 0, 0, 1], // and on
  [0x05, 2, 0, 0], // a reset of queue 0
  [0x05, 4, 0, 0], // a reset of all
  [0x05, 3, 0, 0], // the latch is cleared
  [0x06, 0, 0, 0, 0, 0, 0, 16], // 17 writes side by side
  [0x06, 1, 0, 0, 0, 0, 0x38, 30], // 31 reads all over the disk
  [0x06, 0, 0, 0, 3, 1, 0x20, 8], // 9 writes of one place
  [0x06, 0, 0, 1, 0, 0, 8, 0xfc], // 64 writes downwards
  [0x09], // a wait
  [0x0a], // everything is done
];

/** The inputs of input.ts. */
export const ENGINE_GRAMMAR: Grammar = {
  phrases: PHRASES,
  tame: (random, setup) => {
    if (random.below(4) !== 0) setup[14] = 0;
  },
};

/** A byte of a parameter: small as a rule. */
function randomByte(random: Random): number {
  const how = random.below(8);
  if (how < 3) return random.below(8);
  if (how < 5) return random.pick(DICTIONARY);
  return random.below(256);
}

/** An action of any kind, or a phrase with a change. */
function randomAction(random: Random, { phrases }: Grammar): Uint8Array {
  const action = new Uint8Array(ACTION_BYTES);
  if (random.below(2) === 0) {
    action.set(random.pick(phrases));
    if (random.below(2) === 0) action[random.below(ACTION_BYTES)] = randomByte(random);
    return action;
  }
  action[0] = random.below(16);
  for (let at = 1; at < ACTION_BYTES; at++) {
    if (random.below(3) !== 0) action[at] = randomByte(random);
  }
  return action;
}

/** An input from nothing. */
export function randomInput(random: Random, grammar: Grammar = ENGINE_GRAMMAR): Uint8Array {
  const actions = 1 + random.below(24);
  const bytes = new Uint8Array(HEADER_BYTES + actions * ACTION_BYTES);
  for (let at = 0; at < HEADER_BYTES; at++) {
    if (random.below(2) === 0) bytes[at] = randomByte(random);
  }
  grammar.tame(random, bytes);
  for (let index = 0; index < actions; index++) {
    bytes.set(randomAction(random, grammar), HEADER_BYTES + index * ACTION_BYTES);
  }
  return bytes;
}

/** A changed copy; `other` is an input to take parts from. */
export function mutate(
  random: Random,
  bytes: Uint8Array,
  other: Uint8Array,
  grammar: Grammar = ENGINE_GRAMMAR,
): Uint8Array {
  let changed: Uint8Array = Uint8Array.from(bytes);
  for (let rounds = 1 << random.below(5); rounds > 0; rounds--) {
    changed = mutateOnce(random, changed, other, grammar);
  }
  const longest = HEADER_BYTES + ACTIONS_MAX * ACTION_BYTES;
  return changed.length > longest ? changed.slice(0, longest) : changed;
}

function mutateOnce(
  random: Random,
  bytes: Uint8Array,
  other: Uint8Array,
  grammar: Grammar,
): Uint8Array {
  const actions = actionCount(bytes);
  const from = random.below(actions + 1);
  const some = 1 + random.below(random.below(4) === 0 ? 16 : 3);
  switch (random.below(16)) {
    case 0:
    case 1:
    case 2:
      return splice(bytes, from, 0, [randomAction(random, grammar)]);
    case 3:
      return splice(bytes, from, some, []);
    case 4:
      return splice(bytes, random.below(actions + 1), 0, [slice(bytes, from, some)]);
    case 5:
      return splice(bytes, from, 0, [slice(other, random.below(actionCount(other) + 1), some)]);
    case 6:
      return splice(bytes, from, actions, [
        slice(other, random.below(actionCount(other) + 1), ACTIONS_MAX),
      ]);
    case 7:
      return repeat(random, bytes, from);
    case 8:
      return swap(random, bytes);
    case 9: {
      bytes.set(other.subarray(0, HEADER_BYTES));
      return bytes;
    }
    case 10:
    case 11:
      bytes[random.below(HEADER_BYTES)] = randomByte(random);
      return bytes;
    case 12:
      return splice(bytes, from, 1, [randomAction(random, grammar)]);
    default:
      return changeByte(random, bytes);
  }
}

function changeByte(random: Random, bytes: Uint8Array): Uint8Array {
  if (bytes.length <= HEADER_BYTES) return bytes;
  const at = HEADER_BYTES + random.below(bytes.length - HEADER_BYTES);
  const how = random.below(4);
  if (how === 0) bytes[at]! ^= 1 << random.below(8);
  else if (how === 1) bytes[at]! += random.pick([1, 255, 2, 254]);
  else bytes[at] = randomByte(random);
  return bytes;
}

/** One action several times, its cell going up or not. */
function repeat(random: Random, bytes: Uint8Array, index: number): Uint8Array {
  const action = slice(bytes, index, 1);
  const step = random.pick([0, 0, 1, 2, 255]);
  const copies = Array.from({ length: 1 + random.below(8) }, (_, copy) => {
    const next = Uint8Array.from(action);
    if (next.length > 4) next[4]! += step * (copy + 1);
    return next;
  });
  return splice(bytes, index, 0, copies);
}

function swap(random: Random, bytes: Uint8Array): Uint8Array {
  const actions = actionCount(bytes);
  if (actions < 2) return bytes;
  const from = random.below(actions);
  const moved = slice(bytes, from, 1);
  return splice(splice(bytes, from, 1, []), random.below(actions), 0, [moved]);
}

function slice(bytes: Uint8Array, from: number, count: number): Uint8Array {
  const start = HEADER_BYTES + from * ACTION_BYTES;
  return bytes.slice(start, start + count * ACTION_BYTES);
}

/** The input with `count` actions from `from` on replaced. */
export function splice(
  bytes: Uint8Array,
  from: number,
  count: number,
  inserted: readonly Uint8Array[],
): Uint8Array {
  const start = Math.min(bytes.length, HEADER_BYTES + from * ACTION_BYTES);
  const end = Math.min(bytes.length, start + count * ACTION_BYTES);
  const parts = [bytes.subarray(0, start), ...inserted, bytes.subarray(end)];
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}
