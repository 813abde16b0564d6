/** What makes programs for a qcow2 mapping likely to do something (input.ts). */

import type { Random } from '../../engine/random.ts';
import type { Grammar } from '../mutate.ts';

const PHRASES: readonly (readonly number[])[] = [
  [0x00, 0], // a write of a cluster
  [0x00, 0, 0, 0, 1, 1], // a part of the next
  [0x00, 0, 1, 0, 2], // a stable one
  [0x00, 0, 0, 0, 3, 4, 7], // of some, beginning in the middle
  [0x00, 0, 0, 0, 0, 3, 5], // of half of one
  [0x00, 0, 0, 0, 0, 11, 0, 7], // in many segments
  [0x00, 1], // a read
  [0x00, 1, 0, 0, 0, 12], // a read of many
  [0x00, 2], // zeroes
  [0x00, 2, 2], // which may be unmapped
  [0x00, 2, 4], // fast
  [0x00, 2, 0, 0, 0, 3, 5], // of a part
  [0x00, 2, 1, 0, 0, 8, 10], // of subclusters
  [0x00, 3], // a discard
  [0x00, 3, 1, 0, 0, 13], // of many, stable
  [0x00, 4, 0, 0, 0, 13], // block status
  [0x00, 0, 8], // a barrier
  [0x04], // a flush
  [0x04, 0, 8], // which is a barrier
  [0x01], // a pump
  [0x01, 5], // later
  [0x02, 0, 0, 0xff], // all answered
  [0x02, 0, 0, 0], // one answered
  [0x02, 0, 0, 0, 1], // the last
  [0x02, 0, 4, 0], // one failed
  [0x02, 0, 0x40, 0xff], // a sync failed
  [0x02, 0, 0, 0, 0, 4], // metadata failed
  [0x02, 0, 0, 0xff, 0, 7], // for lack of space
  [0x05, 0, 0, 0, 0], // the write cache goes off
  [0x05, 2], // a reset of queue 0
  [0x05, 4], // of all
  [0x05, 3], // the latch is cleared
  [0x06, 0, 0, 0, 0, 0, 0, 16], // 17 writes
  [0x06, 0, 0, 0, 0, 1, 0x50, 20], // to as many tables
  [0x06, 3, 0, 0, 0, 0, 0x10, 20], // discards of every second cluster
  [0x06, 1, 0, 0, 0, 0, 0, 16], // 17 reads
  [0x06, 0, 0, 0, 0, 0, 0, 0xf9], // 128 writes
  [0x07, 0, 0, 0, 1], // an L1 entry points to the L1 table
  [0x07, 1, 0, 0, 3], // an L2 entry to a refcount block
  [0x07, 1, 0, 0, 4], // to an L2 table
  [0x07, 1, 0, 2, 0, 62], // a bit changes
  [0x07, 3, 0, 2, 0, 7], // a bitmap's
  [0x07, 4, 0, 0, 6], // the refcount table points to data
  [0x07, 5, 0, 0, 6, 0], // a refcount is 0
  [0x07, 1, 0, 8, 6, 3], // compressed
  [0x07, 1, 0, 4], // behind the end
  [0x08, 1], // close
  [0x08, 0], // write now
  [0x09], // a wait
  [0x0a], // everything is done
];

/** The inputs of input.ts. */
export const QCOW2_GRAMMAR: Grammar = {
  phrases: PHRASES,
  tame: (random: Random, setup: Uint8Array) => {
    if (random.below(8) !== 0) setup[0]! &= 0xfe;
    if (setup[4] === 0xff && random.below(4) !== 0) setup[4] = 0;
    if (setup[15] === 0xff) setup[15] = 0;
  },
};
