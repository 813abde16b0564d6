/**
 * A guest's second processor that changes descriptors at random, as fast as it can, until it is
 * told to stop: half an address, length, flags, next or id, each in a store of its own.
 */

import { workerData } from 'node:worker_threads';

/**
 * @typedef {object} Flips
 * @property {SharedArrayBuffer} buffer the memory
 * @property {number} control place of two words: flips made, and whether to stop
 * @property {boolean} packed
 * @property {readonly { place: number, entries: number }[]} tables descriptors to change
 * @property {readonly number[]} low low words of addresses
 * @property {readonly number[]} high high words of addresses
 * @property {readonly number[]} lengths
 * @property {number} mask flags that are changed
 */

const DESC_SIZE = 16;
/** Stores to one field before it is another's turn. */
const BATCH = 64;

/** @type {Flips} */
const flips = workerData;
const words = new Uint32Array(flips.buffer);
const halves = new Uint16Array(flips.buffer);
const control = new Int32Array(flips.buffer, flips.control, 2);

let state = 0x2545_f491;

/** @param {number} limit */
function below(limit) {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % limit;
}

/** @param {readonly number[]} choices */
function choose(choices) {
  return choices[below(choices.length)] ?? 0;
}

/**
 * Stores two values in turn, so that whoever reads a field twice sees both before long.
 *
 * @param {Uint32Array | Uint16Array} array
 * @param {number} index
 * @param {number} one
 * @param {number} other
 */
function alternate(array, index, one, other) {
  for (let i = 0; i < BATCH; i += 2) {
    Atomics.store(array, index, one);
    Atomics.store(array, index, other);
  }
}

function flip() {
  const table = flips.tables[below(flips.tables.length)];
  if (table === undefined) return;
  const at = table.place + below(table.entries) * DESC_SIZE;
  const word = at >>> 2;
  const flags = (at + (flips.packed ? 14 : 12)) >>> 1;
  const next = (at + (flips.packed ? 12 : 14)) >>> 1;
  switch (below(5)) {
    case 0:
      alternate(words, word, choose(flips.low), choose(flips.low));
      break;
    case 1:
      alternate(words, word + 1, choose(flips.high), choose(flips.high));
      break;
    case 2:
      alternate(words, word + 2, choose(flips.lengths), choose(flips.lengths));
      break;
    case 3: {
      const now = Atomics.load(halves, flags);
      alternate(halves, flags, now, now ^ (below(0x1_0000) & flips.mask));
      break;
    }
    default:
      alternate(halves, next, below(table.entries + 2), below(table.entries + 2));
  }
}

while (Atomics.load(control, 1) === 0) {
  flip();
  Atomics.add(control, 0, BATCH);
  Atomics.notify(control, 0);
}
