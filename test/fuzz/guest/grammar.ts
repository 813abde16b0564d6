/** What makes guest programs likely to do something: actions that belong together (input.ts). */

import type { Random } from '../../engine/random.ts';
import type { Grammar } from '../mutate.ts';

const PHRASES: readonly (readonly number[])[] = [
  [0x00, 0, 1, 0], // a write
  [0x00, 1, 1, 1], // a read
  [0x10, 0, 2, 2, 16, 1], // a write of the second ring, indirect
  [0x00, 1, 1, 5, 0x18, 1], // a read in nine buffers, indirect
  [0x00, 1, 1, 5, 0x20, 2], // a read in many, the first descriptor direct
  [0x00, 2], // a flush
  [0x00, 3, 0, 11], // the id
  [0x00, 3, 0, 12], // a part of it
  [0x00, 4, 1, 0], // a discard
  [0x00, 5, 1, 1], // zeroes
  [0x00, 5, 1, 3], // zeroes of many ranges
  [0x00, 8, 1, 0], // a barrier
  [0x00, 1, 1, 1, 0x80], // a read with a status area
  [0x04, 0, 0, 0, 0, 0, 0, 15], // 16 writes
  [0x04, 3, 0, 0, 0x40, 0, 0, 0xf8], // ids until the ring is full
  [0x04, 1, 0, 5, 0x18, 1, 0, 0xfb], // 128 reads in nine buffers
  [0x04, 5, 0, 3, 0, 1, 0, 30], // zeroes of many ranges, often
  [0x01], // a pump
  [0x01, 0, 1], // a pump without a notification
  [0x02, 0, 0, 0xff], // all answered
  [0x02, 0, 0, 0], // one answered
  [0x02, 0, 3, 0], // one failed
  [0x02, 0, 6, 0xff], // all failed for lack of space
  [0x07, 0], // a queue pauses
  [0x07, 1], // goes on
  [0x07, 2], // is reset
  [0x07, 3], // goes off
  [0x08, 0], // is attached anew
  [0x08, 1], // where it was
  [0x09, 0], // memory is taken away
  [0x09, 1], // and put back
  [0x0a, 0], // what errors have stopped goes on
  [0x0a, 2, 0, 5], // errors stop
  [0x0a, 2, 0, 10], // errors are ignored
  [0x0d, 1, 4], // interrupts off
  [0x0d, 0, 4], // on
  [0x0d, 2, 6], // later
  [0x0e], // everything is done
  [0x06, 2], // the available index goes back to where it began
  [0x01, 0, 0, 0x80], // a pump after which nothing lands
  [0x07, 6, 1], // a queue dies between landing and publishing
  [0x07, 2, 0], // two queues die
  [0x17, 2, 0],
  [0x00, 0, 1, 0, 0, 1, 199, 1], // a table in a table
  [0x00, 0, 1, 0, 0, 1, 228], // more than 4 GiB
  [0x00, 0, 1, 0, 0, 1, 226], // too many descriptors
  [0x00, 0, 1, 0, 0, 1, 227], // as many as a chain may have
  [0x00, 0, 1, 0, 0, 1, 229], // too many segments
  [0x00, 0, 1, 0, 0, 1, 230],
  [0x00, 0, 1, 0, 0, 0, 241], // a list of a whole ring
  [0x08, 2, 1], // a ring that is refused
  [0x08, 2, 5],
  [0x08, 2, 6],
  [0x08, 2, 7],
  [0x08, 2, 8],
  [0x08, 2, 10],
  [0x08, 2, 12],
];

const SANE_CUTS = [0, 0, 0, 1, 2, 3, 0, 1, 2, 5, 6, 7];
const SANE_SIZES = [0, 0, 1, 2, 3, 6, 7];

function tame(random: Random, setup: Uint8Array): void {
  if (random.below(8) === 0) return;
  setup[0] = random.below(5);
  setup[2] = random.pick(SANE_SIZES);
  setup[9] = random.pick(SANE_CUTS);
  setup[12] = random.below(8) === 0 ? 1 : 0;
}

/** See the head of the file. */
export const GUEST_GRAMMAR: Grammar = { phrases: PHRASES, tame };
