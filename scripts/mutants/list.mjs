// All mutants of the engine.

import { FLUSH_MUTANTS } from './flush.mjs';
import { MERGE_MUTANTS } from './merge.mjs';
import { ORDER_MUTANTS } from './order.mjs';
import { QCOW2_MUTANTS } from './qcow2.mjs';
import { RING_MUTANTS } from './ring.mjs';

/** @type {readonly import('./mutant.mjs').Mutant[]} */
export const MUTANTS = [
  ...FLUSH_MUTANTS,
  ...ORDER_MUTANTS,
  ...MERGE_MUTANTS,
  ...RING_MUTANTS,
  ...QCOW2_MUTANTS,
];
