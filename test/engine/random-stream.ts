/** The stream of a seed: a disk and its host of any kind, and what happens to them. */

import {
  ERRNO_EDQUOT,
  ERRNO_EFBIG,
  ERRNO_EIO,
  ERRNO_ENOSPC,
  ERRNO_ENOTSUP,
} from '../../src/abi/command.ts';
import * as abi from '../../src/abi/request.ts';
import { isWriteClass } from '../model.ts';
import { Random } from './random.ts';
import type { Setup } from './simulator.ts';
import type { Action, Stream } from './streams.ts';

/** Errnos that the engine tells apart, and others. */
export const ERRNOS = [ERRNO_EIO, ERRNO_EFBIG, ERRNO_ENOSPC, ERRNO_ENOTSUP, ERRNO_EDQUOT, 4];

const MIB = 1024 * 1024;
/** More than the smallest cells fill in one segment table (L3). */
const LARGEST_GRANULE = 16_384;

/** The flags that an operation takes, barriers aside. */
export function flagsOf(op: number): number[] {
  if (op === abi.OP_WRITE || op === abi.OP_DISCARD) return [0, abi.REQUEST_FUA];
  return op === abi.OP_WRITE_ZEROES ? [0, 1, 2, 3, 4, 5, 6, 7] : [0];
}

/** Where a disk of `cells` cells may begin: at 0, and across the borders of 32 and 53 bits. */
export function originsOf(cells: number, cellBytes: number): number[] {
  const below = (end: number): number =>
    Math.floor((end - cells * cellBytes) / LARGEST_GRANULE) * LARGEST_GRANULE;
  return [0, below(2 ** 32 + 4096), below(2 ** 53 - 4096)];
}

/** The stream of a seed. */
export function randomStream(seed: number): Stream {
  const random = new Random(seed);
  const setup = randomSetup(random, seed);
  const cells = (setup.capacity - setup.origin) / setup.cellBytes;
  const bag = STEPS.flatMap((step) => {
    const weight = random.pick(RARE.includes(step) ? [0, 0, 0, 1] : [0, 5, 5, 10, 20, 40]);
    const least = step === 'pump' || step === 'answer' ? 10 : 0;
    return Array.from({ length: weight + least }, () => step);
  });
  const chances: Chances = {
    cells,
    longest: Math.min(
      random.pick(setup.blockSize === LARGEST_GRANULE ? [40, 100] : [1, 2, 4, 8, 40]),
      setup.cellBytes === 4096 ? 8 : 100,
    ),
    queues: random.pick([1, 1, 2, 3]),
    fua: random.pick([0, 0.1, 0.5]),
    barrier: random.pick([0, 0, 0, 0.02, 0.1, 0.3]),
    error: random.pick([0, 0, 0.05, 0.3]),
    syncError: random.pick([0, 0, 0, 0.05, 0.3]),
  };
  const actions = Array.from({ length: 20 + random.below(120) }, () =>
    randomAction(random, random.pick(bag), chances),
  );
  return { setup, actions: random.chance(0.4) ? sequential(random, actions, cells) : actions };
}

/** The same stream of requests that begin where the last one ended, mostly of one kind in a row. */
function sequential(random: Random, actions: readonly Action[], cells: number): Action[] {
  let last: Extract<Action, { do: 'io' }> | undefined;
  return actions.map((action) => {
    if (action.do !== 'io') return action;
    const at = last === undefined ? action.at : (last.at + last.cells) % cells;
    const { op, flags } = last !== undefined && random.chance(0.8) ? last : action;
    last = { ...action, op, flags, at, cells: Math.min(action.cells, cells - at) };
    return last;
  });
}

const STEPS = [
  'read',
  'write',
  'write',
  'zeroes',
  'discard',
  'status',
  'flush',
  'wce',
  'reset',
  'reset all',
  'clear latch',
  'hostile',
  'time',
  'pump',
  'answer',
] as const;

type Step = (typeof STEPS)[number];

/** What would leave little of a stream if it came often. */
const RARE: readonly Step[] = ['reset', 'reset all', 'clear latch', 'hostile'];

interface Chances {
  readonly cells: number;
  readonly longest: number;
  readonly queues: number;
  readonly fua: number;
  readonly barrier: number;
  readonly error: number;
  readonly syncError: number;
}

function randomSetup(random: Random, seed: number): Setup {
  // Where one granule is more than a segment table holds (L3).
  const isFine = random.chance(0.08);
  const cellBytes = isFine ? 128 : random.pick([128, 512, 512, 4096]);
  const cells = isFine ? 256 : random.pick([4, 8, 16, 16, 64, 128]);
  const origin = random.pick(originsOf(cells, cellBytes));
  const blockSize = isFine ? LARGEST_GRANULE : random.pick([1, 512, 512, 4096]);
  const smallestChunk = Math.max(512, blockSize, cellBytes);
  return {
    cellBytes,
    origin,
    capacity: origin + cells * cellBytes,
    blockSize,
    depth: random.pick([1, 2, 3, 8, 32, 256]),
    mergeBytes: random.pick([0, 2 * cellBytes, 5 * cellBytes, 5 * cellBytes - 1, MIB]),
    readOnly: random.chance(0.03),
    noFlush: random.chance(0.08),
    wce: random.chance(0.7),
    files: random.pick([1, 1, 2, 3, 4]),
    chunkBytes: smallestChunk * (isFine ? 1 : random.pick([1, 2, 8])),
    deadline: random.chance(0.4),
    readExpiry: random.pick([0, 10, 100, 1000]),
    writeExpiry: random.pick([0, 10, 100, 1000]),
    batch: random.pick([1, 2, 16]),
    writesStarved: random.pick([1, 2]),
    flushWait: random.pick([0, 0, 10, 200]),
    fua: random.chance(0.8),
    barrier: random.chance(0.8),
    barrierDurable: random.chance(0.6),
    barrierFails: random.chance(0.3),
    seed,
  };
}

const OPS = {
  read: abi.OP_READ,
  write: abi.OP_WRITE,
  zeroes: abi.OP_WRITE_ZEROES,
  discard: abi.OP_DISCARD,
  status: abi.OP_BLOCK_STATUS,
} as const;

function randomAction(random: Random, step: Step, chances: Chances): Action {
  const queue = random.below(chances.queues);
  switch (step) {
    case 'pump':
    case 'reset all':
      return { do: step };
    case 'reset':
    case 'clear latch':
      return { do: step, queue };
    case 'flush':
      return { do: step, queue, flags: barrierFlag(random, chances.barrier) };
    case 'wce':
      return { do: step, queue, on: random.below(2) };
    case 'time':
      return { do: step, micros: random.pick([0, 1, 10, 10, 100, 1000, -50]) };
    case 'hostile':
      return randomHostile(random);
    case 'answer': {
      const errno = random.chance(chances.error) ? random.pick(ERRNOS) : 0;
      const syncErrno = random.chance(chances.syncError) ? random.pick(ERRNOS) : 0;
      return { do: 'answer', pick: random.below(8), errno, syncErrno };
    }
    default:
      return randomIo(random, OPS[step], queue, chances);
  }
}

function randomIo(random: Random, op: number, queue: number, chances: Chances): Action {
  const at = random.below(chances.cells);
  const fua = isWriteClass(op) && random.chance(chances.fua) ? abi.REQUEST_FUA : 0;
  const zeroFlags = op === abi.OP_WRITE_ZEROES ? random.pick([0, 0, 2, 4, 6]) : 0;
  return {
    do: 'io',
    op,
    flags: fua | zeroFlags | barrierFlag(random, chances.barrier),
    queue,
    at,
    cells: Math.min(
      random.chance(0.02) ? 0 : 1 + random.below(chances.longest),
      chances.cells - at,
    ),
    pieces: random.pick([1, 1, 1, 2, 3, 40, 100]),
    gap: random.chance(0.3),
  };
}

function barrierFlag(random: Random, chance: number): number {
  return random.chance(chance) ? abi.REQUEST_BARRIER : 0;
}

/**
 * Numbers at which 32, 53, 63 and 64 bits end, and a few that are harmless. As addresses they lie
 * where no transfer changes what stands there before the record is read.
 */
const EDGES = [0n, 1n, 512n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 512n, 2n ** 64n - 1n];
const WORDS = [0, 1, 2, 64, 1024, 1025, 4096, 0x7fff_ffff, 0xffff_fff0, 0xffff_ffff];

function randomHostile(random: Random): Action {
  return {
    do: 'hostile',
    op: random.pick([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255]),
    flags: random.pick([0, 0, 0, 1, 2, 4, 8, 16, 255]),
    queue: random.pick([0, 0, 63, 64, 65_535]),
    segments: random.pick(WORDS),
    data: random.pick(WORDS),
    offset: String(random.pick(EDGES)),
    length: String(random.pick(EDGES)),
  };
}
