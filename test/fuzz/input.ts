/**
 * What the bytes of an input mean. Every byte string means something:
 *
 *     0         HEADER_BYTES                                          length
 *     | setup   | action | action | ...                     (rest: none) |
 *
 *     setup     one byte for each field of SETUP_FIELDS: an index into a table
 *     action    | kind | 7 parameters |
 *
 * Bytes that are missing at the end are 0. Equal positions mean equal things, so cutting, copying
 * and swapping records makes inputs that make sense.
 */

import { ERRNO_EDQUOT, ERRNO_EFBIG, ERRNO_ENOSPC, ERRNO_ENOTSUP } from '../../src/abi/command.ts';
import * as abi from '../../src/abi/request.ts';
import * as layout from './layout.ts';

/** Bytes of the setup. */
export const HEADER_BYTES = 16;
/** Bytes of an action. */
export const ACTION_BYTES = 8;
/** More actions are not looked at. */
export const ACTIONS_MAX = 192;

/** What an engine is made for, and where it starts. */
export interface Setup {
  readonly flags: number;
  readonly files: number;
  readonly blockSize: number;
  readonly chunkBytes: number;
  readonly depth: number;
  readonly mergeBytes: number;
  readonly readExpiry: number;
  readonly writeExpiry: number;
  readonly batch: number;
  readonly writesStarved: number;
  readonly flushWait: number;
  /** The unit of offsets and lengths of well-formed requests. */
  readonly cellBytes: number;
  readonly cells: number;
  /** Where the first cell lies. */
  readonly origin: number;
  readonly capacity: bigint;
  /** The same, as exact as a number is. */
  readonly capacityBytes: number;
  /** Added to the base of the region. */
  readonly misalign: number;
  /** What the ring positions are at first. */
  readonly position: number;
  /** The first `now`. */
  readonly now: number;
}

const MIB = 1048576;
const MAX_U32 = 0xffff_ffff;
const EDGE_53 = 2 ** 53;

const FILES = [1, 1, 1, 2, 3, 4, 8, 2, 1, 5, 8, 2, 1, 0, 9, MAX_U32];
const BLOCK_SIZES = [512, 1, 512, 4096, 512, 1, 65536, 1024, 512, 4096, MIB, 1, 0, 768, 2 * MIB, 8];
const CHUNKS = [
  4096,
  512,
  1024,
  65536,
  8192,
  4096,
  2 ** 31,
  MIB,
  2048,
  512,
  0,
  256,
  4097,
  1,
  3,
  64,
];
const DEPTHS = [2, 1, 3, 4, 8, 32, 256, 1, 2, 5, 16, 64, 0, 257, MAX_U32, 1];
const MERGES = [65536, 0, 1024, 2560, 2559, 4096, MIB, MAX_U32];
const EXPIRIES = [100, 0, 1, 1000, 500_000, MAX_U32, 10, 5_000_000];
const BATCHES = [2, 1, 16, 3, MAX_U32, 1, 4, 0];
const STARVED = [2, 1, MAX_U32, 0];
const WAITS = [0, 100, 1, 1000, MAX_U32 - 1, 0, 50, 10_000];
const CELL_BYTES = [512, 512, 128, 4096];
const CELLS = [64, 16, 4, 8, 256, 1024, 4096, 1];
const POSITIONS = [0, 0, 0xffff_fff0, 0x8000_0000 - 3];
const TIMES = [0, 1e6, 2 ** 40, -5];
/** Where the disk ends: after its cells, at the borders of 32 and 53 bits, far out, too far. */
const PLACES = ['zero', 'zero', '32', '53', 'far', '2^53', '2^64', 'zero'] as const;

const u8 = (bytes: Uint8Array, at: number): number => bytes[at] ?? 0;

/** The entry of a table that a byte names. */
export function pick<T>(table: readonly T[], byte: number): T {
  return table[byte % table.length]!;
}

/** The setup of an input. */
export function setupOf(bytes: Uint8Array): Setup {
  const cellBytes = pick(CELL_BYTES, u8(bytes, 11));
  const cells = pick(CELLS, u8(bytes, 12));
  const last = u8(bytes, 15);
  const place = placeOf(pick(PLACES, u8(bytes, 13)), cells * cellBytes);
  return {
    flags: u8(bytes, 0),
    files: pick(FILES, u8(bytes, 1)),
    blockSize: pick(BLOCK_SIZES, u8(bytes, 2)),
    chunkBytes: pick(CHUNKS, u8(bytes, 3)),
    depth: pick(DEPTHS, u8(bytes, 4)),
    mergeBytes: pick(MERGES, u8(bytes, 5)),
    readExpiry: pick(EXPIRIES, u8(bytes, 6)),
    writeExpiry: pick(EXPIRIES, u8(bytes, 7)),
    batch: pick(BATCHES, u8(bytes, 8)),
    writesStarved: pick(STARVED, u8(bytes, 9)),
    flushWait: pick(WAITS, u8(bytes, 10)),
    cellBytes,
    cells,
    ...place,
    capacityBytes: Number(place.capacity),
    misalign: u8(bytes, 14) === 255 ? 32 : 0,
    position: pick(POSITIONS, last & 3),
    now: pick(TIMES, last >> 2),
  };
}

function placeOf(
  place: (typeof PLACES)[number],
  bytes: number,
): { origin: number; capacity: bigint } {
  const below = (end: number): number => Math.floor((end - bytes) / 4096) * 4096;
  switch (place) {
    case 'zero':
      return { origin: 0, capacity: BigInt(bytes) };
    case '32':
      return { origin: below(2 ** 32 + 4096), capacity: BigInt(below(2 ** 32 + 4096) + bytes) };
    case '53':
      return { origin: below(EDGE_53), capacity: BigInt(EDGE_53 - 1) };
    case 'far':
      return { origin: 0, capacity: BigInt(2 ** 40) };
    case '2^53':
      return { origin: 0, capacity: BigInt(EDGE_53) };
    case '2^64':
      return { origin: 0, capacity: 2n ** 64n - 1n };
  }
}

/** The kinds of action; IO, PUMP and ANSWER have several numbers so that they are frequent. */
export type Kind =
  | 'io'
  | 'flush'
  | 'control'
  | 'burst'
  | 'hostile'
  | 'pump'
  | 'answer'
  | 'take'
  | 'wait'
  | 'drain';

/** Kind by the low four bits of an action's first byte. */
export const KINDS: readonly Kind[] = [
  'io',
  'pump',
  'answer',
  'io',
  'flush',
  'control',
  'burst',
  'hostile',
  'take',
  'wait',
  'drain',
  'io',
  'io',
  'pump',
  'answer',
  'io',
];

/** A request record as it goes into the ring. */
export interface RequestFields {
  readonly op: number;
  readonly flags: number;
  readonly queue: number;
  readonly segments: number;
  readonly data: number;
  readonly offset: number | bigint;
  readonly length: number | bigint;
}

const IO_OPS = [
  abi.OP_WRITE,
  abi.OP_READ,
  abi.OP_WRITE_ZEROES,
  abi.OP_DISCARD,
  abi.OP_BLOCK_STATUS,
  abi.OP_WRITE,
  abi.OP_READ,
  abi.OP_WRITE,
];

/** Cells of a request. */
const LENGTHS = [1, 1, 2, 3, 4, 5, 8, 12, 16, 32, 64, 1, 1, 2, 0, 7];
/** [bytes added to the offset, bytes added to the length]: ranges that begin or end in a cell. */
const SHIFTS = [
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, -1],
  [1, 0],
  [1, -1],
  [-1, 1],
  [0, 1],
  [64, -64],
  [-1, 0],
  [0, -64],
] as const;
/** Segments of a transfer. */
export const PIECES = [1, 1, 1, 2, 3, 40, 64, 65] as const;

/** Requests of a burst by its last byte: up to 31 as a rule, up to 1024. */
export function burstCount(action: Uint8Array): number {
  const size = u8(action, 7);
  return size < 0xf8 ? 1 + (size % 31) : 1024 >> (size & 7);
}

/** What a burst does with the cell from one request to the next. */
export const STRIDES = [1, -1, 2, 3, 0, -2, 7, 37] as const;

/** The flags that an operation takes when all is offered. */
export function flagsOf(op: number): number {
  switch (op) {
    case abi.OP_WRITE:
    case abi.OP_DISCARD:
      return abi.REQUEST_FUA | abi.REQUEST_BARRIER;
    case abi.OP_WRITE_ZEROES:
      return 15;
    case abi.OP_READ:
    case abi.OP_FLUSH:
      return abi.REQUEST_BARRIER;
    default:
      return 0;
  }
}

/** A request of a disk's user, in cells. */
export interface Io {
  readonly op: number;
  readonly flags: number;
  readonly queue: number;
  readonly at: number;
  readonly cells: number;
  readonly shift: readonly [number, number];
  readonly pieces: number;
  /** 0: memory in the order of the disk; else apart. */
  readonly apart: number;
}

/** The parameters of an `io` or `burst` action. */
export function ioOf(action: Uint8Array): Io {
  const op = pick(IO_OPS, u8(action, 1));
  const flags = u8(action, 2);
  const queue = u8(action, 3);
  const lengths = u8(action, 5);
  const memory = u8(action, 6);
  return {
    op,
    // The top bit lets through what the operation does not take.
    flags: (flags & 0x80) !== 0 ? flags : flags & flagsOf(op),
    queue: (queue & 0xc0) === 0xc0 ? queue : queue & 3,
    at: u8(action, 4),
    cells: pick(LENGTHS, lengths & 15),
    shift: pick(SHIFTS, lengths >> 4),
    pieces: pick(PIECES, memory),
    apart: memory >> 3,
  };
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
export function controlOf(action: Uint8Array, kind: 'flush' | 'control'): RequestFields {
  const op = kind === 'flush' ? abi.OP_FLUSH : pick(CONTROLS, u8(action, 1));
  const flags = u8(action, 2);
  const queue = u8(action, 3);
  return {
    op,
    flags: (flags & 0x80) !== 0 ? flags : flags & flagsOf(op),
    queue: (queue & 0xc0) === 0xc0 ? queue : queue & 3,
    segments: 0,
    data: 0,
    offset: 0,
    length: u8(action, 4) & 1,
  };
}

const QUEUES = [0, 1, 2, 3, 63, 64, 255, 65535];
const SEGMENTS = [1, 0, 2, 3, 64, 65, 1024, 1025, 0x2000_0000, MAX_U32];
const ADDRESSES = [
  layout.BUFFERS,
  layout.TABLE_GOOD,
  layout.TABLE_OUTSIDE,
  layout.TABLE_WRAPPING,
  layout.TABLE_LONG,
  layout.MEMORY_BYTES,
  layout.MEMORY_BYTES - 512,
  layout.MEMORY_BYTES - 511,
  layout.MEMORY_BYTES - 16,
  layout.REGION + 1024,
  0,
  layout.TABLE_EMPTY,
  MAX_U32,
  0xffff_fe00,
  layout.TABLE_GOOD + 1,
  layout.REGION + 1024 + 64,
];
const BIG = [
  0n,
  512n,
  1024n,
  1n,
  511n,
  4096n,
  32768n,
  2n ** 25n,
  2n ** 25n + 512n,
  2n ** 32n,
  2n ** 53n - 512n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 512n,
  2n ** 64n - 1n,
  2n ** 30n,
];

/** The record of a `hostile` action: any operation, any flags, edges elsewhere. */
export function hostileOf(action: Uint8Array): RequestFields {
  const op = u8(action, 1);
  return {
    op: op < 0xf0 ? op % 12 : op,
    flags: u8(action, 2),
    queue: pick(QUEUES, u8(action, 3)),
    segments: pick(SEGMENTS, u8(action, 4)),
    data: pick(ADDRESSES, u8(action, 5)),
    offset: pick(BIG, u8(action, 6)),
    length: pick(BIG, u8(action, 7)),
  };
}

const DELAYS = [0, 0, 1, 100, 10, 1000, 99, 101, 0, 10_000, 1e6, -1, 0.5, 999, 5e6, 2 ** 32];
const ERRNOS = [
  0,
  0,
  0,
  0,
  5,
  0,
  0,
  ERRNO_ENOSPC,
  0,
  0,
  ERRNO_ENOTSUP,
  0,
  ERRNO_EFBIG,
  0,
  4,
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
  readonly count: number;
  readonly backwards: boolean;
  readonly value: number;
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
    count: count >= 0xc0 ? 512 : 1 + (count & 15),
    backwards: (how & 1) !== 0,
    value: u8(action, 5),
    pump: (how & 2) === 0,
  };
}

/** Action `index`, as a view of 8 bytes; short at the end of the input. */
export function actionAt(bytes: Uint8Array, index: number): Uint8Array {
  const at = HEADER_BYTES + index * ACTION_BYTES;
  return bytes.subarray(at, at + ACTION_BYTES);
}

/** Actions of an input; what is left at the end is none unless it has a first byte. */
export function actionCount(bytes: Uint8Array): number {
  return Math.min(
    ACTIONS_MAX,
    Math.max(0, Math.ceil((bytes.length - HEADER_BYTES) / ACTION_BYTES)),
  );
}

/** The kind of an action. */
export function kindOf(action: Uint8Array): Kind {
  return KINDS[u8(action, 0) & 15]!;
}

/** A line of text for an input: setup and actions in hex, without the zeroes at their ends. */
export function toLine(bytes: Uint8Array): string {
  const parts = [bytes.subarray(0, HEADER_BYTES)];
  for (let index = 0; index < actionCount(bytes); index++) parts.push(actionAt(bytes, index));
  return parts.map((part) => hex(part)).join(' ');
}

function hex(part: Uint8Array): string {
  let end = part.length;
  while (end > 1 && part[end - 1] === 0) end -= 1;
  return Buffer.from(part.subarray(0, end)).toString('hex');
}

/** The input of a line. */
export function fromLine(line: string): Uint8Array {
  const [header = '', ...actions] = line.split(' ');
  const bytes = new Uint8Array(HEADER_BYTES + actions.length * ACTION_BYTES);
  bytes.set(Buffer.from(header, 'hex').subarray(0, HEADER_BYTES));
  for (const [index, action] of actions.entries()) {
    const record = Buffer.from(action, 'hex').subarray(0, ACTION_BYTES);
    bytes.set(record, HEADER_BYTES + index * ACTION_BYTES);
  }
  return bytes;
}
