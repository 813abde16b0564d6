/**
 * Streams of requests and the configurations of an engine, as the explorer knows them: plain data,
 * in sectors, with words for people.
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

/** Bytes of a sector: the unit of contents. */
export const SECTOR_BYTES = 512;

/** A request of a guest. Operations and flags are those of the request record. */
export interface GuestRequest {
  readonly op: number;
  readonly flags: number;
  readonly queue: number;
  /** Sectors `from` to `to`; SET_WCE has its value in `to`, what has no range 0. */
  readonly from: number;
  readonly to: number;
}

/** What barriers are: refused, an order only, or an order and stable. */
export type BarrierMode = 'off' | 'order' | 'durable';

/** How the engine is configured (abi/region.ts), and how large the disk is. */
export interface EngineSetup {
  readonly sectors: number;
  readonly granuleSectors: number;
  readonly depth: number;
  readonly mergeBytes: number;
  readonly files: number;
  readonly chunkSectors: number;
  readonly wce: boolean;
  readonly noFlush: boolean;
  readonly fua: boolean;
  readonly deadline: boolean;
  /** Microseconds, like `writeExpiry` and `flushWait`. */
  readonly readExpiry: number;
  readonly writeExpiry: number;
  readonly batch: number;
  readonly writesStarved: number;
  readonly flushWait: number;
  readonly barrier: BarrierMode;
  readonly barrierFails: boolean;
}

/** The plainest configuration: one command at a time, a write cache, FUA, one file. */
export const PLAIN_SETUP: EngineSetup = {
  sectors: 4,
  granuleSectors: 1,
  depth: 1,
  mergeBytes: 0,
  files: 1,
  chunkSectors: 1,
  wce: true,
  noFlush: false,
  fua: true,
  deadline: false,
  readExpiry: 500_000,
  writeExpiry: 5_000_000,
  batch: 1,
  writesStarved: 1,
  flushWait: 0,
  barrier: 'off',
  barrierFails: false,
};

/** True for what changes the disk. */
export function isWriteClass(op: number): boolean {
  return op === OP_WRITE || op === OP_WRITE_ZEROES || op === OP_DISCARD;
}

/** True for what reads or changes a range. */
export function hasRange(op: number): boolean {
  return op === OP_READ || isWriteClass(op);
}

/** True for what is done when everything that completed before it is stable. */
export function isFlush({ op, to }: GuestRequest): boolean {
  return op === OP_FLUSH || (op === OP_SET_WCE && to === 0);
}

/** True for a request that fences both ways. */
export function isBarrier({ flags }: GuestRequest): boolean {
  return (flags & REQUEST_BARRIER) !== 0;
}

/** True when one of the two must wait for the other (H1), ranges rounded out to the granule. */
export function conflicts(a: GuestRequest, b: GuestRequest, granule: number): boolean {
  if (!hasRange(a.op) || !hasRange(b.op) || (a.op === OP_READ && b.op === OP_READ)) return false;
  if (granule === 1) return a.from < b.to && b.from < a.to;
  return (
    Math.floor(a.from / granule) < Math.ceil(b.to / granule) &&
    Math.floor(b.from / granule) < Math.ceil(a.to / granule)
  );
}

/** True when the earlier one must complete first (unless it is aborted). */
export function isOrdered(earlier: GuestRequest, later: GuestRequest, granule: number): boolean {
  if (isBarrier(earlier) || isBarrier(later)) return true;
  if (isReset(later)) return !isReset(earlier) && resets(later, earlier.queue);
  return conflicts(earlier, later, granule);
}

/** True when a later write of the same queue may take the place of this one, if volatile (U1). */
export function supersedes(later: GuestRequest, earlier: GuestRequest): boolean {
  return (
    later.op === OP_WRITE &&
    earlier.op === OP_WRITE &&
    later.queue === earlier.queue &&
    later.from <= earlier.from &&
    later.to >= earlier.to &&
    !isBarrier(later) &&
    !isBarrier(earlier)
  );
}

/** True for a reset of a queue or of all. */
export function isReset({ op }: GuestRequest): boolean {
  return op === OP_RESET || op === OP_RESET_QUEUE;
}

/** True when a reset ends requests of this queue. */
export function resets(reset: GuestRequest, queue: number): boolean {
  return reset.op === OP_RESET || (reset.op === OP_RESET_QUEUE && reset.queue === queue);
}

const LETTERS = ['R', 'W', 'Z', 'D', 'S', 'F', 'C', 'Q', 'Q', 'L'];
const WORDS = ['read', 'write', 'zeroes', 'discard', 'status', 'flush'];

/** The name of request `number` of a stream: a letter for its kind, and its number from 1. */
export function nameOf(request: GuestRequest, number: number): string {
  return `${LETTERS[request.op] ?? '?'}${number}`;
}

/** A request in words. */
export function describeRequest(request: GuestRequest): string {
  const { op, flags, queue, from, to } = request;
  if (op === OP_SET_WCE) return `write cache ${to === 0 ? 'off' : 'on'}`;
  if (op === OP_RESET) return 'reset';
  if (op === OP_RESET_QUEUE) return `reset queue ${queue}`;
  if (op === OP_CLEAR_LATCH) return 'clear latch';
  const words = [WORDS[op] ?? `operation ${op}`];
  if (hasRange(op)) words.push(`[${from},${to})`);
  if ((flags & REQUEST_FUA) !== 0) words.push('FUA');
  if ((flags & REQUEST_BARRIER) !== 0) words.push('barrier');
  if (queue !== 0) words.push(`queue ${queue}`);
  return words.join(' ');
}

/** What makes a configuration differ from the plainest, in words. */
export function describeSetup(setup: EngineSetup): string {
  const words = [`depth ${setup.depth}`, setup.wce ? 'write cache on' : 'write cache off'];
  if (!setup.fua) words.push('no FUA');
  if (setup.noFlush) words.push('flushes ignored');
  if (setup.files > 1) words.push(`${setup.files} files, chunks of ${setup.chunkSectors}`);
  if (setup.granuleSectors > 1) words.push(`granule of ${setup.granuleSectors}`);
  words.push(setup.mergeBytes === 0 ? 'no merging' : `merging to ${setup.mergeBytes} bytes`);
  if (setup.deadline) words.push(`deadline, batch ${setup.batch}`);
  if (setup.flushWait > 0) words.push(`flush wait ${setup.flushWait} us`);
  if (setup.barrier !== 'off') words.push(`barriers ${setup.barrier}`);
  if (setup.barrierFails) words.push('barriers fail after an error');
  return `${setup.sectors} sectors, ${words.join(', ')}`;
}
