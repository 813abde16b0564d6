/** What explorations of qcow2 go through: images, configurations, streams of requests. */
import {
  OP_CLEAR_LATCH,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_RESET_QUEUE,
  OP_SET_WCE,
  OP_WRITE,
  OP_WRITE_ZEROES,
  REQUEST_BARRIER,
  REQUEST_FUA,
  REQUEST_MAY_UNMAP,
} from '../../abi/request.ts';
import type { MemoryOperation } from '../../backend/memory-command.ts';
import type { Random } from '../random.ts';
import type { Micros } from '../simulated-disk-options.ts';
import type { GuestRequest } from '../stream.ts';
import type { FileFaults, Latency } from './hosts.ts';
import type { ImageShape } from './image-builder.ts';
import type { Qcow2Setup } from './subject.ts';

const LARGE = { clusterBits: 12 } as const;
const EXTENDED = { clusterBits: 15, extendedL2: true } as const;

/** Images to begin with: each kind of cluster, each kind of image. */
export const SHAPES: readonly ImageShape[] = [
  { name: 'empty', clusters: '.'.repeat(24) },
  { name: 'free clusters', clusters: '.'.repeat(24), freeClusters: 9 },
  { name: 'two L2 tables', clusters: `${'.'.repeat(60)}dd..zzdd`, freeClusters: 3 },
  { name: 'many L2 tables', clusters: `d${'.'.repeat(62)}z`.repeat(7), freeClusters: 3 },
  { name: 'full', clusters: 'd'.repeat(20), freeClusters: 1 },
  { name: 'every kind', clusters: 'd.zp'.repeat(5), freeClusters: 5 },
  { name: 'backing', clusters: 'd.zp'.repeat(5), backingClusters: 14, freeClusters: 5 },
  { name: 'large clusters', clusters: '.dz.dp.', freeClusters: 2, format: LARGE },
  { name: 'large clusters, backing', clusters: '.dzp.dp.', backingClusters: 4.5, format: LARGE },
  { name: 'compressed', clusters: 'ccc.cdc', freeClusters: 1, format: LARGE },
  { name: 'compressed and data', clusters: 'cddddc..', freeClusters: 1, format: LARGE },
  { name: 'snapshot', clusters: 'd.zpdd..dd', snapshot: true, freeClusters: 4 },
  {
    name: 'snapshot of all',
    clusters: 'cd.zpc',
    snapshot: true,
    backingClusters: 5,
    format: LARGE,
  },
  { name: 'version 2', clusters: 'd.d...', freeClusters: 4, format: { version: 2 } },
  { name: 'version 2, backing', clusters: 'd.d....', backingClusters: 6, format: { version: 2 } },
  { name: 'extended', clusters: 'd.zp', freeClusters: 1, format: EXTENDED },
  { name: 'extended, backing', clusters: 'd.zp.', backingClusters: 4.625, format: EXTENDED },
  { name: 'data file', clusters: 'd.zp'.repeat(4), dataFile: 'plain' },
  { name: 'extended, data file', clusters: 'd.zp', dataFile: 'plain', format: EXTENDED },
  { name: 'raw data file', clusters: 'd.zp'.repeat(4), dataFile: 'raw' },
  { name: 'refcounts of 1 bit', clusters: 'd.zp..', freeClusters: 4, format: { refcountOrder: 0 } },
  {
    name: 'a full refcount block',
    clusters: `d${'.'.repeat(25)}`,
    room: { of: 'block', clusters: 6 },
    format: { refcountOrder: 6 },
  },
  {
    name: 'a full refcount table',
    clusters: `d${'.'.repeat(15)}`,
    room: { of: 'table', clusters: 6 },
    format: { refcountOrder: 6 },
  },
];

/** A configuration in which anything may be. */
export function randomSetup(random: Random): Qcow2Setup {
  return {
    depth: pick(random, [1, 2, 8, 32]),
    mergeBytes: pick(random, [0, 1024, 65_536]),
    wce: random.chance(0.8),
    fua: random.chance(0.5),
    barrier: pick(random, ['off', 'off', 'order', 'durable']),
    l2Slices: pick(random, [2, 4, 16]),
    refcountSlices: pick(random, [1, 4, 8]),
    reserveClusters: pick(random, [1, 3, 16]),
    flushIntervalMicros: pick(random, [0, 100, 2000]),
    noHoles: random.chance(0.2),
    punch: random.chance(0.5),
  };
}

/** How the disks below answer: sometimes in turn, sometimes far out of order. */
export function randomLatency(random: Random): Latency {
  const most = pick(random, [1, 30, 300]);
  const times = [1, most] as const;
  const slow = [1, pick(random, [1, 100, 1000])] as const;
  // Now and then all else has happened before they come.
  const late = (): Micros => (random.chance(0.2) ? [most, 20 * most] : times);
  return {
    read: late(),
    write: times,
    stableWrite: slow,
    writeZeroes: times,
    discard: late(),
    blockStatus: times,
    sync: slow,
    extend: times,
  };
}

const HEADER_SECTORS = [0, 1] as const;
/** Where the refcount table is, of most images. */
const TABLE_SECTORS = [1, 2] as const;

/** What fails on the way; mostly nothing. */
export function randomFaults(random: Random): FileFaults {
  if (!random.chance(0.25)) return {};
  const nth = 1 + random.below(random.chance(0.5) ? 6 : 40);
  const ops = pick(random, FAULTY_OPS);
  return pick<FileFaults>(random, [
    { image: { eio: { nth } } },
    { image: { eio: { ops, nth } } },
    { image: { eio: { ops: ['write'], sectors: HEADER_SECTORS, nth: 1 + (nth % 3) } } },
    { image: { eio: { ops: ['write'], sectors: TABLE_SECTORS, nth: 1 + (nth % 3) } } },
    { image: { enospc: { nth } } },
    { image: { shortWrites: { nth } } },
    { image: { failingSync: { nth: 1 + (nth % 8) } } },
    { backing: { eio: { nth } } },
    { compressed: nth },
  ]);
}

const FAULTY_OPS: readonly MemoryOperation[][] = [
  ['read'],
  ['write'],
  ['writeZeroes', 'discard'],
  ['extend'],
];

/** Kinds of requests, and how many sectors those that have a range touch. */
const KINDS = [
  'write',
  'write',
  'write',
  'fua',
  'fence',
  'read',
  'zeroes',
  'unmap',
  'discard',
  'flush',
  'flush',
  'wce',
] as const;

/**
 * A random stream: a few kinds of requests on a few places, so that they meet. `clusterSectors` is
 * where places begin and end more often than elsewhere.
 */
export function randomStream(
  random: Random,
  { barrier }: Qcow2Setup,
  sectors: number,
  clusterSectors: number,
  requests: number,
): readonly GuestRequest[] {
  const kinds = Array.from({ length: 2 + random.below(3) }, () => pick(random, KINDS));
  const clusters = sectors / clusterSectors;
  const places = Array.from({ length: 1 + random.below(4) }, () => random.below(clusters));
  return Array.from({ length: requests }, () => {
    const from = pick(random, places) * clusterSectors + awayFrom(random, clusterSectors);
    const most = Math.min(sectors - from, 3 * clusterSectors);
    const whole = clusterSectors * (1 + random.below(2));
    const count = Math.min(most, random.chance(0.5) ? whole : 1 + random.below(most));
    const range = { queue: random.below(2), from, to: from + count };
    if (random.chance(0.04)) return rareRequest(random, range.queue);
    return requestOf(random, pick(random, kinds), range, barrier !== 'off');
  });
}

/** Clearing the latch does nothing where no sync has failed. */
function rareRequest(random: Random, queue: number): GuestRequest {
  const op = random.chance(0.5) ? OP_RESET_QUEUE : OP_CLEAR_LATCH;
  return { op, flags: 0, queue: op === OP_RESET_QUEUE ? queue : 0, from: 0, to: 0 };
}

function awayFrom(random: Random, clusterSectors: number): number {
  return random.chance(0.6) ? 0 : random.below(clusterSectors);
}

function requestOf(
  random: Random,
  kind: (typeof KINDS)[number],
  range: Pick<GuestRequest, 'queue' | 'from' | 'to'>,
  fences: boolean,
): GuestRequest {
  const { queue } = range;
  const flags = random.chance(0.2) ? REQUEST_FUA : 0;
  switch (kind) {
    case 'write':
      return { op: OP_WRITE, flags: 0, ...range };
    case 'fua':
      return { op: OP_WRITE, flags: REQUEST_FUA, ...range };
    case 'fence':
      return { op: OP_WRITE, flags: fences ? REQUEST_BARRIER : 0, ...range };
    case 'read':
      return { op: OP_READ, flags: 0, ...range };
    case 'zeroes':
      return { op: OP_WRITE_ZEROES, flags, ...range };
    case 'unmap':
      return { op: OP_WRITE_ZEROES, flags: flags | REQUEST_MAY_UNMAP, ...range };
    case 'discard':
      return { op: OP_DISCARD, flags, ...range };
    case 'flush':
      return { op: OP_FLUSH, flags: 0, queue, from: 0, to: 0 };
    case 'wce':
      return { op: OP_SET_WCE, flags: 0, queue, from: 0, to: random.below(2) };
  }
}

function pick<T>(random: Random, items: readonly T[]): T {
  const item = items[random.below(items.length)];
  if (item === undefined) throw new RangeError('nothing to choose from');
  return item;
}
