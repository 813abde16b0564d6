/** What the simulated host knows of a request: its record, its range, and what is owed to it. */

import * as abi from '../../src/abi/request.ts';
import { type CommandRecord, type RequestRecord, segmentsOf } from '../driver.ts';
import { isReset, isWriteClass } from '../model.ts';

/** A request that was submitted. */
export interface Tracked {
  readonly record: RequestRecord;
  readonly queue: number;
  readonly refusal: number;
  /** Cells, and the same in granules. */
  readonly from: number;
  readonly to: number;
  readonly start: number;
  readonly end: number;
  /** A fence both ways (B1); opening the latch is one as well (F9). */
  readonly isFence: boolean;
  /** Must be stable when it completes. */
  readonly stable: boolean;
  /** Where the bytes of each cell lie (READ, WRITE). */
  readonly addresses: readonly number[];
  /** The last write-class request that was submitted before, cell by cell. */
  readonly before: readonly (Tracked | undefined)[];
  /** A flush: the version of each cell that it must find stable. */
  readonly owes: Uint32Array | undefined;
  /** Submitted when a sync had already failed. */
  readonly afterFailure: boolean;
  /** Submitted when a reset of its queue was going on. */
  readonly inReset: boolean;
  /** A command has carried some of it. */
  isSent: boolean;
  status: number | undefined;
}

/** A command at the host, as a range of the disk. */
export interface Carried {
  readonly command: CommandRecord;
  /** Cells, and the same in granules. */
  readonly from: number;
  readonly to: number;
  readonly start: number;
  readonly end: number;
  /** Where the bytes of each cell lie (READ, WRITE). */
  readonly addresses: readonly number[];
}

/** H1, of two requests or of two commands. */
export function conflict(
  a: Pick<Tracked, 'start' | 'end'>,
  aOp: number,
  b: Pick<Tracked, 'start' | 'end'>,
  bOp: number,
): boolean {
  const overlap = a.start < b.end && b.start < a.end;
  return overlap && (isWriteClass(aOp) || isWriteClass(bOp));
}

/** H1, of two requests. */
export function conflictOf(a: Tracked, b: Tracked): boolean {
  return conflict(a, a.record.op, b, b.record.op);
}

/** R1: true when `reset` is a reset that ends `request`. */
export function concerns(reset: Tracked, request: Tracked): boolean {
  const { op } = reset.record;
  if (!isReset(op) || isReset(request.record.op)) return false;
  return op === abi.OP_RESET || reset.queue === request.queue;
}

/**
 * The requests whose bytes a command carries: told by the addresses in memory, or by place for
 * what has none. A cell that nobody asked for is undefined.
 */
export function carriersOf(
  carried: Carried,
  open: Iterable<Tracked>,
): readonly (Tracked | undefined)[] {
  const { command, from, to, addresses } = carried;
  const carriers = Array.from<Tracked | undefined>({ length: to - from });
  for (const request of open) {
    if (request.record.op !== command.op || request.refusal !== abi.STATUS_OK) continue;
    if (command.op === abi.OP_BLOCK_STATUS && request.record.data !== command.data) continue;
    for (let cell = Math.max(from, request.from); cell < Math.min(to, request.to); cell++) {
      const isAsked = request.addresses[cell - request.from] === addresses[cell - from];
      if (isAsked) carriers[cell - from] ??= request;
    }
  }
  return carriers;
}

/** True when submission order allows `value` in a cell last written by `writer`. */
export function allowed(value: number, cell: number, writer: Tracked | undefined): boolean {
  let last = writer;
  while (last !== undefined) {
    const { op, tag } = last.record;
    if (op === abi.OP_DISCARD || value === (op === abi.OP_WRITE ? tag : 0)) return true;
    // A write that failed or was aborted may have left what was there before.
    if (last.status === abi.STATUS_OK || last.status === undefined) return false;
    last = last.before[cell - last.from];
  }
  return value === 0;
}

/** False when the table of a command has changed while it was at the host. */
export function keepsTable(view: DataView, command: CommandRecord): boolean {
  const { op, segments, data, length, table } = command;
  // The model keeps no table in memory.
  if (op > abi.OP_WRITE || segments === 1 || data === 0) return true;
  return segmentsOf(view, segments, data, length).every(
    ({ address, length: bytes }, index) =>
      address === table[index]!.address && bytes === table[index]!.length,
  );
}

/** A command for a message. */
export function textOf({ op, file, offset, length }: CommandRecord): string {
  return `command ${op} at ${file}:${offset}+${length}`;
}
