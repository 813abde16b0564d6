/** What the bytes of an input (../input.ts) mean for an engine with a qcow2 mapping. */

import {
  ERRNO_EDQUOT,
  ERRNO_EFBIG,
  ERRNO_EIO,
  ERRNO_ENOSPC,
  ERRNO_ENOTSUP,
} from '../../../src/abi/command.ts';
import * as map from '../../../src/abi/map.ts';
import { CONFIG_READ_ONLY } from '../../../src/abi/region.ts';
import * as abi from '../../../src/abi/request.ts';
import { flagsOf, PIECES, pick } from '../input.ts';
import type { ImageShape } from './shape.ts';

/** What a run begins with. */
export interface Setup {
  readonly shape: ImageShape;
  readonly flags: number;
  /** Of the mapping: those that the image does not decide. */
  readonly mapFlags: number;
  readonly blockSize: number;
  readonly depth: number;
  readonly mergeBytes: number;
  readonly flushWait: number;
  readonly flushInterval: number;
  readonly l2Slices: number;
  readonly refcountSlices: number;
  readonly buffers: number;
  readonly reserveClusters: number;
  /** The L1 table lacks its second half: the disk has grown without it. */
  readonly shortL1: boolean;
  /** Clusters to which the refcount table may grow. */
  readonly tableClusters: number;
  readonly granuleBits: number;
  /** The host does what it is told when it is told, and not when it answers. */
  readonly eager: boolean;
  /** What is done of a write that fails: nothing, half of it, all. */
  readonly torn: 0 | 1 | 2;
  /** What the ring positions are at first. */
  readonly position: number;
}

const SIZES = [
  { clusterBits: 9, extended: false },
  { clusterBits: 9, extended: false },
  { clusterBits: 9, extended: false },
  { clusterBits: 14, extended: true },
  { clusterBits: 10, extended: false },
  { clusterBits: 12, extended: false },
  { clusterBits: 16, extended: false },
  { clusterBits: 14, extended: true },
] as const;
const ORDERS = [4, 4, 6, 3, 0, 1, 2, 5];
const FILES = [
  'none',
  'backing',
  'short backing',
  'data',
  'raw data',
  'none',
  'ciphered',
  'ciphered backing',
] as const;
/** Letters of clusters, over and over (shape.ts). */
const PATTERNS = [
  '.',
  'd',
  'dz.pc',
  'c',
  'dd..zzppcc',
  'ddddddddp',
  'd.',
  '.d.p.z.c.s',
  'pppp',
  'cd',
  'dsds',
  `${'d'.repeat(192)}${'.'.repeat(4096)}`,
  'h',
  'dp',
  'ssss',
  'z',
] as const;
const CLUSTERS = [24, 8, 70, 1, 130, 200, 40, 4300];
/** Bytes of the disk, at most, but for the shape that fills its refcount table. */
const MOST_BYTES = 1048576;
const HUGE = 8704;
const FREE = [0, 3, 12, 40];
const L2_SLICES = [2, 1, 3, 64, 4, 8, 160, 16];
const REFCOUNT_SLICES = [2, 1, 4, 160];
const BUFFERS = [2, 3, 4, 8];
const RESERVES = [16, 1, 2, 4, 64, 4096, 16, 8];
const DEPTHS = [8, 1, 2, 3, 32, 256, 8, 4];
const MERGES = [65536, 0, 1024, 4096, 1048576, 512, 8192, 2560];
const INTERVALS = [0, 1000, 100, 1e6];
const WAITS = [0, 100, 1000, 50];
const GRANULES = [0, 0, 9, 12, 16, 0, 10, 0];
const BLOCKS = [512, 1, 4096, 512];
const TABLES = [3, 1, 2, 8];
const POSITIONS = [0, 0, 0xffff_fff0, 0x8000_0000 - 3];

const u8 = (bytes: Uint8Array, at: number): number => bytes[at] ?? 0;

/** A parameter of an action. */
export function parameter(action: Uint8Array, at: number): number {
  return u8(action, at);
}

/** The setup of an input. */
export function setupOf(bytes: Uint8Array): Setup {
  const host = u8(bytes, 14);
  const last = u8(bytes, 15);
  const places = u8(bytes, 3);
  const caches = u8(bytes, 8);
  const readOnly = (u8(bytes, 0) & CONFIG_READ_ONLY) !== 0;
  let mapFlags = readOnly ? map.MAP_READ_ONLY : 0;
  if ((places & 0x10) !== 0) mapFlags |= map.MAP_PUNCH;
  if ((places & 0x20) !== 0) mapFlags |= map.MAP_NO_HOLES;
  const torn = ((host >> 1) & 3) % 3;
  return {
    shape: shapeOf(bytes),
    flags: u8(bytes, 0),
    mapFlags,
    blockSize: pick(BLOCKS, (host >> 3) & 3),
    depth: pick(DEPTHS, u8(bytes, 10)),
    mergeBytes: pick(MERGES, u8(bytes, 11)),
    flushWait: pick(WAITS, u8(bytes, 12) >> 2),
    flushInterval: pick(INTERVALS, u8(bytes, 12) & 3),
    // So many that no memory holds them.
    l2Slices: last === 255 ? 0x4_0000 * 16 : pick(L2_SLICES, u8(bytes, 7)),
    refcountSlices: pick(REFCOUNT_SLICES, caches & 3),
    buffers: pick(BUFFERS, caches >> 2),
    reserveClusters: pick(RESERVES, u8(bytes, 9)),
    shortL1: (u8(bytes, 2) & 0x80) !== 0,
    tableClusters: pick(TABLES, last >> 2),
    granuleBits: pick(GRANULES, u8(bytes, 13)),
    eager: (host & 1) !== 0,
    torn: torn as 0 | 1 | 2,
    position: pick(POSITIONS, last & 3),
  };
}

function shapeOf(bytes: Uint8Array): ImageShape {
  const size = pick(SIZES, u8(bytes, 1));
  const counts = u8(bytes, 2);
  const files = pick(FILES, u8(bytes, 3) & 7);
  const letters = u8(bytes, 4);
  const places = u8(bytes, 6);
  const isVersion2 = (counts & 0x40) !== 0 && !size.extended && !files.includes('data');
  const { clusterBits } = size;
  const hasData = files.includes('data');
  const order = isVersion2 ? 4 : pick(ORDERS, counts & 7);
  // A refcount table of one cluster counts them, with tables beside them.
  const counted = 2 ** (2 * clusterBits - order - 1);
  const most = Math.min(MOST_BYTES >> (clusterBits - 2), counted);
  const clusters = Math.min(pick(CLUSTERS, u8(bytes, 5)), most);
  // More tables than one batch writes.
  const isHuge = u8(bytes, 5) === 0xff && clusterBits === 9;
  const isFull = letters === 0xff && clusterBits === 9 && !hasData && !isVersion2;
  return {
    clusterBits,
    extended: size.extended,
    version: isVersion2 ? 2 : 3,
    refcountOrder: isFull ? 6 : order,
    files,
    pattern: isFull ? 'd' : isHuge ? '.' : pick(PATTERNS, letters & 15),
    // One bit counts to one.
    snapshot: (letters & 0x40) !== 0 && !hasData && order !== 0 && !isFull,
    clusters: isHuge ? HUGE : isFull ? 4300 : clusters,
    isFull,
    // The disk ends within a cluster.
    cutBytes: (u8(bytes, 5) & 0x40) !== 0 ? 512 : 0,
    free: pick(FREE, places & 3),
    isCut: (places & 0x40) !== 0,
  };
}

/** The kinds of action. */
export type Kind =
  | 'io'
  | 'burst'
  | 'flush'
  | 'control'
  | 'poke'
  | 'turn'
  | 'pump'
  | 'answer'
  | 'wait'
  | 'drain';

/** Kind by the low four bits of an action's first byte. */
const KINDS: readonly Kind[] = [
  'io',
  'pump',
  'answer',
  'io',
  'flush',
  'control',
  'burst',
  'poke',
  'turn',
  'wait',
  'drain',
  'io',
  'io',
  'pump',
  'answer',
  'io',
];

/** The kind of an action. */
export function kindOf(action: Uint8Array): Kind {
  return KINDS[u8(action, 0) & 15]!;
}

const OPS = [
  abi.OP_WRITE,
  abi.OP_READ,
  abi.OP_WRITE_ZEROES,
  abi.OP_DISCARD,
  abi.OP_BLOCK_STATUS,
  abi.OP_WRITE,
  abi.OP_READ,
  abi.OP_WRITE_ZEROES,
];

/** A request of a disk's user. */
export interface Io {
  readonly op: number;
  readonly flags: number;
  readonly queue: number;
  readonly offset: number;
  readonly length: number;
  readonly pieces: number;
}

/** The longest transfer. */
const TRANSFER_MAX = 98304;
/** Every cluster has a number; numbers from here on are spread over the disk. */
const SPREAD = 192;

/** The parameters of an `io` or `burst` action; `on`: clusters further. */
export function ioOf(action: Uint8Array, shape: ImageShape, capacity: number, on = 0): Io {
  const clusterBytes = 2 ** shape.clusterBits;
  const unit = shape.extended ? clusterBytes / 32 : clusterBytes;
  const op = pick(OPS, u8(action, 1));
  const flags = u8(action, 2);
  const cluster = clusterOf(u8(action, 4), shape.clusters) + on;
  const within = withinOf(u8(action, 6), clusterBytes, unit);
  const offset = Math.min((cluster % shape.clusters) * clusterBytes + within, capacity);
  const most = op <= abi.OP_WRITE ? TRANSFER_MAX : capacity;
  const wanted = lengthOf(u8(action, 5), clusterBytes, unit);
  // What passes the end of the disk is seldom asked for.
  const past = (u8(action, 6) & 0xf0) === 0xf0 ? 512 : 0;
  const length = past + Math.min(wanted, most, capacity - offset);
  return {
    op,
    // The top bit lets through what the operation does not take.
    flags: (flags & 0x80) !== 0 ? flags & 0x7f : flags & flagsOf(op),
    queue: u8(action, 3) & 3,
    offset,
    length,
    pieces: pick(PIECES, u8(action, 7)),
  };
}

/** The cluster that a byte names. */
export function clusterOf(byte: number, clusters: number): number {
  if (byte < SPREAD) return byte % clusters;
  return Math.floor(((byte - SPREAD) * (clusters - 1)) / (255 - SPREAD));
}

function withinOf(byte: number, cluster: number, unit: number): number {
  const low = byte & 15;
  const places = [0, 0, 0, 0, 0, 512, cluster - 512, cluster / 2, 1, cluster - 1, unit, unit + 1];
  const more = [2 * unit, 31 * unit, unit - 1, 5 * unit];
  return ([...places, ...more][low] ?? 0) % cluster;
}

function lengthOf(byte: number, cluster: number, unit: number): number {
  const lengths = [
    cluster,
    512,
    2 * cluster,
    cluster / 2,
    3 * cluster,
    1,
    513,
    unit,
    3 * unit,
    cluster - 512,
    cluster + 512,
    8 * cluster,
    17 * cluster,
    64 * cluster,
    0,
    5 * unit + 1,
  ];
  // The upper bits make it longer.
  return (lengths[byte & 15] ?? 0) * (1 + (byte >> 4));
}

/** Requests of a burst. */
export function burstCount(action: Uint8Array): number {
  const size = u8(action, 7);
  return size < 0xf8 ? 1 + (size % 23) : 64 << (size & 3);
}

/** Clusters from one request of a burst to the next. */
export function strideOf(action: Uint8Array): number {
  return pick([1, 2, 0, 3, 7, 64, 65, 5], u8(action, 6) >> 4);
}

const CONTROLS = [
  abi.OP_SET_WCE,
  abi.OP_SET_WCE,
  abi.OP_RESET_QUEUE,
  abi.OP_CLEAR_LATCH,
  abi.OP_RESET,
  abi.OP_RESET_QUEUE,
  abi.OP_SET_WCE,
  abi.OP_CLEAR_LATCH,
];

/** The request of a `flush` or `control` action. */
export function controlOf(action: Uint8Array, kind: 'flush' | 'control'): Io {
  const op = kind === 'flush' ? abi.OP_FLUSH : pick(CONTROLS, u8(action, 1));
  const flags = u8(action, 2) & flagsOf(op);
  const length = op === abi.OP_SET_WCE ? u8(action, 4) & 1 : 0;
  return { op, flags, queue: u8(action, 3) & 3, offset: 0, length, pieces: 1 };
}

const DELAYS = [0, 0, 1, 100, 10, 1000, 99, 101, 0, 10_000, 1e6, 50, 500, 999, 5e6, 2 ** 32];
const ERRNOS = [
  0,
  0,
  0,
  0,
  ERRNO_EIO,
  0,
  0,
  ERRNO_ENOSPC,
  0,
  0,
  ERRNO_ENOTSUP,
  0,
  ERRNO_EFBIG,
  0,
  ERRNO_EIO,
  ERRNO_EDQUOT,
];

/** Microseconds that pass before a pump. */
export function delayOf(action: Uint8Array): number {
  return pick(DELAYS, u8(action, 1));
}

/** How a host answers. */
export interface Answer {
  readonly pick: number;
  readonly errno: number;
  readonly syncErrno: number;
  readonly metadataErrno: number;
  readonly count: number;
  readonly backwards: boolean;
  /** Extents of a block status. */
  readonly extents: number;
  readonly pump: boolean;
}

/** The parameters of an `answer` action. */
export function answerOf(action: Uint8Array): Answer {
  const errnos = u8(action, 2);
  const count = u8(action, 3);
  const how = u8(action, 4);
  return {
    pick: u8(action, 1),
    errno: pick(ERRNOS, errnos & 15),
    syncErrno: pick(ERRNOS, errnos >> 4),
    metadataErrno: pick(ERRNOS, u8(action, 5) & 15),
    count: count >= 0xc0 ? 512 : 1 + (count & 15),
    backwards: (how & 1) !== 0,
    extents: 1 + ((how >> 4) & 3),
    pump: (how & 2) === 0,
  };
}
