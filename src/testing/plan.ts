/**
 * What is explored: the configurations, the alphabet of requests, the streams that are worth a
 * look before all others, and random ones.
 *
 * The alphabet has three extents on a small disk: X and Y are neighbours, so that requests merge,
 * XY covers both, so that requests overlap, take each other's place and span two files of a stripe.
 * What touches Y alone comes from queue 1, everything else from queue 0.
 */
import {
  OP_CLEAR_LATCH,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_RESET,
  OP_RESET_QUEUE,
  OP_SET_WCE,
  OP_WRITE,
  OP_WRITE_ZEROES,
  REQUEST_BARRIER,
  REQUEST_FUA,
} from '../abi/request.ts';
import type { Random } from './random.ts';
import { type EngineSetup, type GuestRequest, hasRange, isBarrier, PLAIN_SETUP } from './stream.ts';

const MERGES = 4096;
const plain = PLAIN_SETUP;
const barriers = { barrier: 'durable' } as const;
const striped = { files: 2, chunkSectors: 1 } as const;
const deadlines = { deadline: true, readExpiry: 500, writeExpiry: 5000 } as const;

/** The configurations that every short stream runs in, the plainest first. */
export const SETUPS: readonly EngineSetup[] = [
  { ...plain },
  { ...plain, depth: 32, mergeBytes: MERGES },
  { ...plain, depth: 2, fua: false, ...striped },
  { ...plain, depth: 32, ...barriers },
  { ...plain, depth: 2, wce: false, mergeBytes: MERGES },
  { ...plain, depth: 32, ...striped, ...barriers, fua: false, mergeBytes: MERGES },
  { ...plain, depth: 2, mergeBytes: MERGES, flushWait: 100, ...striped },
  { ...plain, depth: 32, wce: false, fua: false, ...striped },
  { ...plain, depth: 2, barrier: 'order', barrierFails: true, mergeBytes: MERGES },
  { ...plain, depth: 1, ...deadlines, batch: 2 },
  { ...plain, depth: 1, wce: false, fua: false, ...barriers, barrierFails: true },
  { ...plain, depth: 2, granuleSectors: 2, mergeBytes: MERGES },
  { ...plain, depth: 1, ...deadlines, ...striped, ...barriers, flushWait: 100 },
  { ...plain, depth: 2, noFlush: true, ...barriers, mergeBytes: MERGES },
];

type Extent = readonly [from: number, to: number];
const X: Extent = [0, 1];
const Y: Extent = [1, 2];
const XY: Extent = [0, 2];

function io(op: number, [from, to]: Extent, flags = 0): GuestRequest {
  return { op, flags, queue: from === 1 && to === 2 ? 1 : 0, from, to };
}

function other(op: number, to = 0, queue = 0, flags = 0): GuestRequest {
  return { op, flags, queue, from: 0, to };
}

const W = OP_WRITE;
const FUA = REQUEST_FUA;
const FENCE = REQUEST_BARRIER;
const FLUSH = other(OP_FLUSH);
const WCE_OFF = other(OP_SET_WCE, 0);
const WCE_ON = other(OP_SET_WCE, 1);
const RESET = other(OP_RESET);
const RESET_0 = other(OP_RESET_QUEUE, 0, 0);
const RESET_1 = other(OP_RESET_QUEUE, 0, 1);
const CLEAR = other(OP_CLEAR_LATCH);
const FLUSH_FENCE = other(OP_FLUSH, 0, 0, FENCE);

/** The letters that short streams are made of. */
const ALPHABET: readonly GuestRequest[] = [
  io(W, X),
  FLUSH,
  io(W, XY),
  io(W, X, FUA),
  io(W, XY, FENCE),
  io(OP_READ, X),
  io(W, Y),
  io(OP_WRITE_ZEROES, XY, FUA),
  WCE_OFF,
  io(OP_WRITE_ZEROES, X),
  io(OP_DISCARD, X),
  RESET_0,
  io(OP_READ, XY),
  WCE_ON,
  io(W, Y, FUA),
  CLEAR,
  RESET,
  FLUSH_FENCE,
  io(OP_READ, Y, FENCE),
  io(W, XY, FUA),
];

/** Fewer letters, for streams that would be too many. */
const CORE: readonly GuestRequest[] = [
  io(W, X),
  FLUSH,
  io(W, XY),
  io(W, X, FUA),
  io(W, XY, FENCE),
  io(OP_READ, X),
  io(OP_WRITE_ZEROES, X),
  io(OP_DISCARD, X),
];

/** Requests of the longest streams that are made of all letters. */
const ALL_LETTERS_REQUESTS = 3;

/** The letters that streams of so many requests are made of. */
export function alphabetOf(requests: number): readonly GuestRequest[] {
  return requests <= ALL_LETTERS_REQUESTS ? ALPHABET : CORE;
}

/**
 * Streams in which engines go wrong: one for each way to lose data that durability 9 and the rules
 * of the stages name, as short as it can be.
 */
export const CLASSICS: readonly (readonly GuestRequest[])[] = [
  // A flush and the sync that it shares: cover, need, elision.
  [io(W, X), FLUSH, io(W, X), FLUSH],
  [io(W, X), FLUSH, FLUSH],
  [FLUSH, io(W, Y), FLUSH],
  [io(W, XY), FLUSH, io(W, Y), FLUSH],
  [io(W, X), FLUSH, io(W, Y), FLUSH, FLUSH],
  // The latch: a failed sync, then writes of every class, then the way out.
  [FLUSH, FLUSH, io(W, X, FUA)],
  [io(W, X), FLUSH, CLEAR, FLUSH],
  [FLUSH, io(W, X), CLEAR, FLUSH, FLUSH],
  [FLUSH, CLEAR, io(OP_WRITE_ZEROES, X, FUA)],
  [io(W, X), FLUSH, io(W, Y), FLUSH, CLEAR, FLUSH],
  // Classes: FUA beside others, shared syncs, the cache turned off and on.
  [io(W, X, FUA), io(W, Y, FUA)],
  [io(W, X, FUA), io(W, Y), FLUSH],
  [FLUSH, io(W, X, FUA), io(W, Y, FUA)],
  [io(W, X), WCE_OFF, io(W, X)],
  [io(W, X), WCE_OFF, WCE_ON, io(W, X), FLUSH],
  [WCE_OFF, io(W, X), io(W, Y)],
  [io(W, X), RESET, WCE_OFF, io(W, X)],
  [WCE_ON, RESET, io(W, X)],
  [WCE_OFF, RESET, io(W, X)],
  // Overlaps and merges: WAW, RAW, WAR, a neighbour that jumps over what it overlaps.
  [io(W, Y), io(OP_READ, X), io(W, X)],
  [io(W, Y), io(W, XY), io(W, X)],
  [io(W, Y), io(W, X), io(W, X), io(W, Y)],
  [io(W, XY), io(OP_READ, X), io(W, X), io(OP_READ, XY)],
  [io(OP_WRITE_ZEROES, XY), io(W, X), io(OP_READ, XY)],
  [io(W, X), io(W, Y), io(OP_READ, XY), FLUSH],
  // What a later write covers: not sent, sent, read between, other classes, other queues.
  [io(W, Y), io(W, X), io(W, X)],
  [io(W, Y), io(W, X), io(OP_READ, X), io(W, XY)],
  [io(W, Y), io(W, X, FUA), io(W, X)],
  [io(W, Y), io(W, X), io(W, X, FUA)],
  [io(OP_READ, Y), io(W, X), io(OP_WRITE_ZEROES, X), io(W, X)],
  [io(W, [2, 4]), io(W, X), io(W, X), io(W, XY)],
  // Barriers: what is open before them on either queue, what comes after, how they fail.
  [io(W, Y), io(W, X, FENCE), io(W, Y)],
  [io(OP_READ, Y), io(W, X, FENCE), io(OP_READ, Y)],
  [io(W, X), io(W, Y), io(W, XY, FENCE), io(W, X)],
  [io(W, X), io(W, Y, FENCE), FLUSH],
  [io(W, Y), io(OP_READ, X, FENCE), io(W, X)],
  [io(W, X), FLUSH_FENCE, io(W, X)],
  [io(W, X, FENCE), io(W, Y, FENCE)],
  [io(W, X), io(OP_WRITE_ZEROES, Y, FENCE), io(OP_DISCARD, X, FENCE)],
  // Resets: what waits, what is at the host, what comes meanwhile.
  [io(W, X), io(W, X), RESET_0],
  [io(W, X), io(W, Y), RESET_1, io(W, Y)],
  [io(W, X), FLUSH, RESET_0, FLUSH],
  [io(W, X), io(W, Y), io(W, XY), RESET, io(W, X)],
  [io(W, X, FUA), io(W, Y, FUA), RESET_0, FLUSH],
  [io(W, XY), io(W, X), RESET_0, RESET_1, io(OP_READ, XY)],
  // Company: several who wait for the same sync, and whoever comes late.
  [io(W, X), FLUSH, FLUSH, io(W, Y), FLUSH],
  [FLUSH, FLUSH, io(W, X), FLUSH, FLUSH],
  [io(W, X, FUA), io(W, Y, FUA), FLUSH, io(W, X), FLUSH],
  // Who goes first when there is room for one.
  [io(W, XY), io(OP_READ, [2, 3]), io(OP_READ, [3, 4]), io(W, Y), io(OP_READ, [2, 4])],
  [io(OP_READ, X), io(W, Y), io(OP_READ, [2, 3]), io(W, [3, 4]), io(OP_READ, X), io(OP_READ, Y)],
  [io(W, X), io(W, [3, 4]), io(W, [2, 3]), io(OP_READ, Y), io(W, Y)],
  [io(OP_READ, X), io(OP_READ, [3, 4]), io(OP_READ, [2, 3]), io(OP_READ, Y), io(W, X)],
  [io(OP_READ, X), io(W, X), io(OP_READ, Y), io(OP_READ, [2, 3]), io(OP_READ, [3, 4]), io(W, Y)],
  // Flights in pieces.
  [io(W, [0, 4]), FLUSH],
  [io(W, [0, 3]), io(OP_READ, [0, 4])],
  [io(W, [0, 4], FUA), io(W, [1, 3])],
  [io(W, [0, 2]), io(W, [2, 4]), FLUSH],
];

/** True when the configuration takes such a request. */
export function takes(setup: EngineSetup, request: GuestRequest): boolean {
  if (isBarrier(request) && setup.barrier === 'off') return false;
  return !hasRange(request.op) || request.to <= setup.sectors;
}

/** A configuration in which anything may be. */
export function randomSetup(random: Random): EngineSetup {
  const files = pick(random, [1, 1, 2, 3]);
  const chunkSectors = pick(random, [1, 1, 2]);
  const noFlush = random.chance(0.03);
  const barrier = pick(random, ['off', 'order', 'durable'] as const);
  return {
    sectors: pick(random, [2, 4, 6]),
    granuleSectors: files > 1 && chunkSectors === 1 ? 1 : pick(random, [1, 1, 2]),
    depth: pick(random, [1, 1, 2, 2, 3, 32]),
    mergeBytes: pick(random, [0, 1024, MERGES, 1 << 20]),
    files,
    chunkSectors,
    wce: random.chance(0.7),
    noFlush,
    fua: random.chance(0.5),
    deadline: random.chance(0.3),
    readExpiry: 500,
    writeExpiry: 5000,
    batch: pick(random, [1, 2, 4]),
    writesStarved: pick(random, [1, 2]),
    flushWait: pick(random, [0, 0, 100]),
    barrier,
    barrierFails: random.chance(0.3),
  };
}

/**
 * A random stream. A few kinds of requests each, not all of them: a stream of one write, one read
 * and many flushes finds what a mixture of everything never does.
 */
export function randomStream(
  random: Random,
  setup: EngineSetup,
  requests: number,
): readonly GuestRequest[] {
  const kinds = Array.from({ length: 2 + random.below(3) }, () => pick(random, KINDS));
  const stream: GuestRequest[] = [];
  while (stream.length < requests) {
    const request = randomRequest(random, setup, pick(random, kinds));
    if (takes(setup, request)) stream.push(request);
  }
  return stream;
}

const KINDS = [
  'write',
  'write',
  'write',
  'fua',
  'fence',
  'read',
  'zeroes',
  'discard',
  'flush',
  'flush',
  'flush',
  'wce',
  'reset',
  'clear',
] as const;

function randomRequest(
  random: Random,
  setup: EngineSetup,
  kind: (typeof KINDS)[number],
): GuestRequest {
  const from = random.below(setup.sectors);
  const to = from + 1 + random.below(Math.min(3, setup.sectors - from));
  const queue = random.below(2);
  const range = { from, to, queue };
  const fence = setup.barrier !== 'off' && random.chance(0.1) ? FENCE : 0;
  switch (kind) {
    case 'write':
      return { op: W, flags: fence, ...range };
    case 'fua':
      return { op: W, flags: FUA | fence, ...range };
    case 'fence': {
      const op = pick(random, [W, W, OP_READ, OP_WRITE_ZEROES, OP_DISCARD]);
      return { op, flags: setup.barrier === 'off' ? 0 : FENCE, ...range };
    }
    case 'read':
      return { op: OP_READ, flags: fence, ...range };
    case 'zeroes':
      return { op: OP_WRITE_ZEROES, flags: random.chance(0.4) ? FUA : 0, ...range };
    case 'discard':
      return { op: OP_DISCARD, flags: random.chance(0.4) ? FUA : 0, ...range };
    case 'flush':
      return other(OP_FLUSH, 0, queue, fence);
    case 'wce':
      return other(OP_SET_WCE, random.below(2), queue);
    case 'reset':
      return pick(random, [RESET, RESET_0, RESET_1]);
    case 'clear':
      return CLEAR;
  }
}

function pick<T>(random: Random, items: readonly T[]): T {
  const item = items[random.below(items.length)];
  if (item === undefined) throw new RangeError('nothing to choose from');
  return item;
}
