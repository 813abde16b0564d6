/** The model's request: what is refused (T2), conflicts (H1), may share a command (E2). */

import { ERRNO_EDQUOT, ERRNO_EFBIG, ERRNO_ENOSPC, ERRNO_ENOTSUP } from '../../src/abi/command.ts';
import { MAX_TRANSFER_BYTES, QUEUES, SECTOR_SIZE } from '../../src/abi/limits.ts';
import * as abi from '../../src/abi/request.ts';
import { type Counters, type EngineConfig, type RequestRecord, segmentsOf } from '../driver.ts';

/** IOV_MAX: the longest segment table of one request. */
const SEGMENTS_MAX = 1024;

/** True for what changes the disk. */
export function isWriteClass(op: number): boolean {
  return op === abi.OP_WRITE || op === abi.OP_WRITE_ZEROES || op === abi.OP_DISCARD;
}

/** True for what ends a queue, or all of them. */
export function isReset(op: number): boolean {
  return op === abi.OP_RESET_QUEUE || op === abi.OP_RESET;
}

/** T2: STATUS_OK, or why the engine refuses a request before any I/O. */
export function refusalOf(config: EngineConfig, request: RequestRecord, memory: DataView): number {
  const { op } = request;
  const offset = Number(request.offset);
  const length = Number(request.length);
  if (op > abi.OP_CLEAR_LATCH || (request.queue ?? 0) >= QUEUES) return abi.STATUS_INVALID;
  if ((request.flags & ~flagsOf(op, config.barrier ?? false)) !== 0) return abi.STATUS_INVALID;
  if (op === abi.OP_SET_WCE) return length <= 1 ? abi.STATUS_OK : abi.STATUS_INVALID;
  if (op >= abi.OP_FLUSH) return abi.STATUS_OK;
  if (isWriteClass(op) && config.readOnly) return abi.STATUS_READ_ONLY;
  if (offset + length > config.capacity) return abi.STATUS_OUT_OF_RANGE;
  return carriesWell(request, memory) ? abi.STATUS_OK : abi.STATUS_INVALID;
}

/** Every flag that an operation takes. */
function flagsOf(op: number, barriers: boolean): number {
  const isFence = op <= abi.OP_DISCARD || op === abi.OP_FLUSH;
  let flags = isFence && barriers ? abi.REQUEST_BARRIER : 0;
  if (isWriteClass(op)) flags |= abi.REQUEST_FUA;
  if (op === abi.OP_WRITE_ZEROES) flags |= abi.REQUEST_MAY_UNMAP | abi.REQUEST_FAST_ZERO;
  return flags;
}

/** T2, the memory of a request. */
function carriesWell({ op, segments, data, length }: RequestRecord, memory: DataView): boolean {
  const inside = (address: number, bytes: number): boolean => address + bytes <= memory.byteLength;
  if (op === abi.OP_BLOCK_STATUS) return inside(data, abi.EXTENT_TABLE_ENTRIES * abi.EXTENT_SIZE);
  if (op !== abi.OP_READ && op !== abi.OP_WRITE) return true;
  if (length > MAX_TRANSFER_BYTES || segments < 1 || segments > SEGMENTS_MAX) return false;
  if (segments > 1 && !inside(data, segments * abi.SEGMENT_SIZE)) return false;
  const table = segmentsOf(memory, segments, data, Number(length));
  const bytes = table.reduce((sum, segment) => sum + segment.length, 0);
  return bytes === Number(length) && table.every((piece) => inside(piece.address, piece.length));
}

/** The status that an errno of the host means. */
export function statusOf(errno: number): number {
  if (errno === 0) return abi.STATUS_OK;
  if ([ERRNO_ENOSPC, ERRNO_EDQUOT, ERRNO_EFBIG].includes(errno)) return abi.STATUS_NO_SPACE;
  return errno === ERRNO_ENOTSUP ? abi.STATUS_UNSUPPORTED : abi.STATUS_IO_ERROR;
}

/**
 * Where a request is: nowhere yet, a barrier that stands before its start, behind a conflict, in
 * the elevator, in a flight, in line for a sync, taken over by a later write, or on its way out.
 */
export type Place =
  | 'new'
  | 'standing'
  | 'blocked'
  | 'ready'
  | 'sent'
  | 'waiting'
  | 'superseded'
  | 'done';

/** A request that the model holds. */
export interface Entry {
  readonly tag: number;
  readonly op: number;
  readonly flags: number;
  readonly queue: number;
  readonly segments: number;
  readonly data: number;
  readonly offset: number;
  readonly length: number;
  readonly slot: number;
  readonly sequence: number;
  /** U2: its own sequence, or that of the oldest that it has taken over. */
  age: number;
  /** The time of the call that took it. */
  taken: number;
  /** H1: the range, rounded out to the granule. */
  readonly start: number;
  readonly end: number;
  place: Place;
  /** H2: how many earlier conflicting requests have not finished, and who waits for this one. */
  blockers: number;
  readonly blocks: Entry[];
  /** U2: the writes that this one has taken over, in submission order. */
  superseded: Entry[];
  stable: boolean;
  /** Rode in a flight of several that failed. */
  alone: boolean;
  /** B3: a barrier that waits for its first flush. */
  flushesFirst: boolean;
  /** F1, F8: the generation that must be stable before this completes. */
  need: number;
  /** F10: when it began to wait for a sync. */
  waitingSince: number;
  value: number;
}

/** H1. */
export function conflict(a: Entry, b: Entry): boolean {
  const overlap = a.start < b.end && b.start < a.end;
  return overlap && (isWriteClass(a.op) || isWriteClass(b.op));
}

/** A write that the host could make stable by itself. */
export function isStableWrite({ op, stable }: Entry): boolean {
  return op === abi.OP_WRITE && stable;
}

/** B1: a fence; opening the latch is one as well (F9). */
export function isBarrier({ op, flags }: Entry): boolean {
  return op === abi.OP_CLEAR_LATCH || (flags & abi.REQUEST_BARRIER) !== 0;
}

/** E2: what may share a command, in the order in which the elevator sends it. */
export function kindOf({ op, flags, stable }: Entry): number {
  if (op === abi.OP_READ) return 0;
  if (op === abi.OP_BLOCK_STATUS) return 1;
  if (op === abi.OP_WRITE) return stable ? 3 : 2;
  if (op === abi.OP_DISCARD) return 8;
  const mayUnmap = (flags & abi.REQUEST_MAY_UNMAP) === 0 ? 0 : 1;
  const fast = (flags & abi.REQUEST_FAST_ZERO) === 0 ? 0 : 2;
  return 4 + mayUnmap + fast;
}

/** E1: by kind, then by place; the lower slot first. */
export function byPlace(a: Entry, b: Entry): number {
  const sector = (entry: Entry): number => Math.floor(entry.offset / SECTOR_SIZE);
  return kindOf(a) - kindOf(b) || sector(a) - sector(b) || a.slot - b.slot;
}

/** Counts a request that is not refused. */
export function tally(counters: Counters, { op, length }: Entry): void {
  if (op === abi.OP_READ) {
    counters.reads += 1;
    counters.bytesRead += length;
  } else if (op === abi.OP_WRITE) {
    counters.writes += 1;
    counters.bytesWritten += length;
  } else if (op === abi.OP_WRITE_ZEROES) counters.writeZeroes += 1;
  else if (op === abi.OP_DISCARD) counters.discards += 1;
  else if (op === abi.OP_BLOCK_STATUS) counters.blockStatuses += 1;
}
