/**
 * The engine in plain TypeScript: slow, obvious, and written from the invariants (S, T, H, E, F, W,
 * X, C, P in assembly/) and from the durability rules, not from the AssemblyScript.
 *
 * The same requests and results predict the same commands and completions, in the same order and
 * with the same ids; segment tables are equal entry by entry. Two things may differ: where the
 * engine keeps the table of a merged command (the model says 0), and what stands in `segments` and
 * `data` of commands that carry no bytes (WRITE_ZEROES, DISCARD).
 *
 * Ids and slots are taken from a pile: the one that was freed last is used next. A slot's number
 * is visible only where several requests begin in one sector: the lower number is merged first.
 */

import {
  COMMAND_STABLE,
  COMMAND_SYNC,
  COMMAND_WRITE,
  ERRNO_EDQUOT,
  ERRNO_EFBIG,
  ERRNO_ENOSPC,
  ERRNO_ENOTSUP,
} from '../src/abi/command.ts';
import {
  COMMAND_SLOTS,
  MAX_TRANSFER_BYTES,
  MERGE_SEGMENTS,
  REQUEST_SLOTS,
  RING_ENTRIES,
  SECTOR_SIZE,
} from '../src/abi/limits.ts';
import * as abi from '../src/abi/request.ts';
import {
  type BlockEngine,
  type CommandRecord,
  type CompletionRecord,
  COUNTERS,
  type Counters,
  type EngineConfig,
  type Generations,
  type RequestRecord,
  type Segment,
  segmentsOf,
  SYNC_ID,
} from './driver.ts';

/** IOV_MAX: the longest segment table of one request. */
const SEGMENTS_MAX = 1024;

/** True for what changes the disk. */
export function isWriteClass(op: number): boolean {
  return op === abi.OP_WRITE || op === abi.OP_WRITE_ZEROES || op === abi.OP_DISCARD;
}

/** T2: STATUS_OK, or why the engine refuses a request before any I/O. */
export function refusalOf(config: EngineConfig, request: RequestRecord, memory: DataView): number {
  const { op } = request;
  const offset = Number(request.offset);
  const length = Number(request.length);
  let flags = 0;
  if (isWriteClass(op)) flags |= abi.REQUEST_FUA;
  if (op === abi.OP_WRITE_ZEROES) flags |= abi.REQUEST_MAY_UNMAP | abi.REQUEST_FAST_ZERO;
  if (op > abi.OP_SET_WCE || (request.flags & ~flags) !== 0) return abi.STATUS_INVALID;
  if (op === abi.OP_FLUSH) return abi.STATUS_OK;
  if (op === abi.OP_SET_WCE) return length <= 1 ? abi.STATUS_OK : abi.STATUS_INVALID;
  if (isWriteClass(op) && config.readOnly) return abi.STATUS_READ_ONLY;
  if (offset + length > config.capacity) return abi.STATUS_OUT_OF_RANGE;
  return carriesWell(request, memory) ? abi.STATUS_OK : abi.STATUS_INVALID;
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

/** A request that the model holds. */
interface Entry {
  readonly tag: number;
  readonly op: number;
  readonly flags: number;
  readonly segments: number;
  readonly data: number;
  readonly offset: number;
  readonly length: number;
  readonly slot: number;
  readonly sequence: number;
  /** H1: the range, rounded out to the granule. */
  readonly start: number;
  readonly end: number;
  /** H2: how many earlier conflicting requests have not finished, and who waits for this one. */
  blockers: number;
  readonly blocks: Entry[];
  stable: boolean;
  /** Rode in a merged command that failed. */
  alone: boolean;
  /** F1, F8: the generation that must be stable before this completes. */
  need: number;
  value: number;
}

/** A data command at the host. */
interface Flight {
  readonly parts: readonly Entry[];
  readonly direct: boolean;
}

interface Finished {
  readonly entry: Entry;
  readonly status: number;
  readonly errno: number;
}

/** The model of one engine. */
export class ModelEngine implements BlockEngine {
  readonly #config: EngineConfig;
  readonly #memory: DataView;

  readonly #requests: RequestRecord[] = [];
  readonly #results: { id: number; errno: number; value: number }[] = [];
  readonly #commands: CommandRecord[] = [];
  readonly #completions: CompletionRecord[] = [];

  readonly #freeSlots = pile(REQUEST_SLOTS);
  readonly #freeIds = pile(COMMAND_SLOTS);
  #sequence = 0;
  /** Requests with a range, taken and not published. */
  readonly #unfinished = new Set<Entry>();
  /** E1: without conflicts, waiting to be sent. */
  #ready: Entry[] = [];
  readonly #flights = new Map<number, Flight>();
  /** F4: waiting for a sync, first come first. */
  #waiters: Entry[] = [];
  readonly #finished: Finished[] = [];

  #completed = 1; // F7
  #stable = 0;
  #cover = 0;
  #syncRunning = false;
  #latched = false;
  #wce: boolean;
  readonly #counters = Object.fromEntries(
    Object.keys(COUNTERS).map((name) => [name, 0]),
  ) as Counters;

  /** @param memory where the segment tables of requests lie */
  constructor(config: EngineConfig, memory: DataView) {
    this.#config = config;
    this.#memory = memory;
    this.#wce = config.wce;
  }

  submit(request: RequestRecord): boolean {
    if (this.#requests.length >= RING_ENTRIES) return false;
    this.#requests.push(request);
    return true;
  }

  result(id: number, errno: number, value = 0): void {
    this.#results.push({ id, errno, value });
  }

  takeCommands(): CommandRecord[] {
    return this.#commands.splice(0);
  }

  takeCompletions(limit = RING_ENTRIES): CompletionRecord[] {
    return this.#completions.splice(0, limit);
  }

  counters(): Counters {
    return { ...this.#counters };
  }

  generations(): Generations {
    return {
      completed: this.#completed,
      stable: this.#stable,
      cover: this.#cover,
      syncRunning: this.#syncRunning,
      wce: this.#wce,
      latched: this.#latched,
    };
  }

  pump(): void {
    for (const { id, errno, value } of this.#results.splice(0)) {
      if (id === SYNC_ID) this.#syncAnswered(errno);
      else this.#dataAnswered(id, errno, value);
    }
    this.#publish();
    // Refused and empty requests free their slots at once, so more may fit (P1).
    while (this.#hasRoom()) {
      while (this.#hasRoom()) this.#take(this.#requests.shift()!);
      this.#publish();
    }
    this.#dispatch();
    if (!this.#syncRunning && this.#waiters.length > 0) this.#startSync();
  }

  /** T1: a free slot, and room for the completions of all that is open. */
  #hasRoom(): boolean {
    const owed = this.#completions.length + REQUEST_SLOTS - this.#freeSlots.length;
    return this.#requests.length > 0 && this.#freeSlots.length > 0 && owed < RING_ENTRIES;
  }

  #take(request: RequestRecord): void {
    const { op } = request;
    const offset = Number(request.offset);
    const length = Number(request.length);
    const granule = this.#config.blockSize;
    const entry: Entry = {
      ...request,
      offset,
      length,
      slot: this.#freeSlots.pop()!,
      sequence: this.#sequence++,
      start: Math.floor(offset / granule) * granule,
      end: Math.ceil((offset + length) / granule) * granule,
      blockers: 0,
      blocks: [],
      stable: false,
      alone: false,
      need: 0,
      value: 0,
    };
    const refusal = refusalOf(this.#config, request, this.#memory);
    if (refusal !== abi.STATUS_OK) {
      this.#counters.refused += 1;
      this.#finish(entry, refusal);
      return;
    }
    this.#tally(entry);
    // W1, W2.
    if (isWriteClass(op) && !this.#config.noFlush) {
      entry.stable = !this.#wce || (entry.flags & abi.REQUEST_FUA) !== 0;
    }
    if (op === abi.OP_SET_WCE) this.#wce = length === 1;
    const flushes = op === abi.OP_FLUSH || (op === abi.OP_SET_WCE && length === 0);
    if (flushes) this.#takeFlush(entry);
    else if (op === abi.OP_SET_WCE || length === 0) this.#finish(entry, abi.STATUS_OK);
    else this.#order(entry);
  }

  /** H2, H3. */
  #order(entry: Entry): void {
    for (const earlier of this.#unfinished) {
      if (!conflict(earlier, entry)) continue;
      earlier.blocks.push(entry);
      entry.blockers += 1;
    }
    this.#unfinished.add(entry);
    if (entry.blockers === 0) this.#ready.push(entry);
    else this.#counters.ordered += 1;
  }

  #takeFlush(entry: Entry): void {
    this.#counters.flushes += 1;
    entry.need = this.#completed; // F1
    if (this.#config.noFlush) this.#finish(entry, abi.STATUS_OK);
    else if (this.#latched) this.#finish(entry, abi.STATUS_FLUSH_LATCHED); // F6
    else if (this.#stable >= entry.need) {
      this.#counters.flushesElided += 1; // F3
      this.#finish(entry, abi.STATUS_OK);
    } else this.#waiters.push(entry);
  }

  #startSync(): void {
    this.#syncRunning = true;
    this.#cover = this.#completed; // F2
    this.#counters.syncs += 1;
    this.#commands.push({ ...NO_BYTES, id: SYNC_ID, op: COMMAND_SYNC });
  }

  #syncAnswered(errno: number): void {
    this.#syncRunning = false;
    if (errno !== 0) {
      this.#latched = true; // F6
      this.#counters.syncsFailed += 1;
      for (const entry of this.#waiters) this.#finish(entry, abi.STATUS_IO_ERROR, errno);
      this.#waiters = [];
      return;
    }
    this.#stable = Math.max(this.#stable, this.#cover);
    const served = this.#waiters.filter((entry) => entry.need <= this.#stable); // F4
    this.#waiters = this.#waiters.filter((entry) => entry.need > this.#stable);
    this.#counters.flushesCoalesced += Math.max(served.length - 1, 0);
    for (const entry of served) this.#finish(entry, abi.STATUS_OK);
  }

  #dataAnswered(id: number, errno: number, value: number): void {
    const { parts, direct } = this.#flights.get(id)!;
    this.#flights.delete(id);
    this.#freeIds.push(id);
    const changedTheDisk = isWriteClass(parts[0]!.op);
    if (changedTheDisk && (!direct || errno !== 0)) this.#completed += 1; // F5
    for (const entry of parts) {
      entry.value = value;
      if (errno !== 0 && parts.length > 1) {
        entry.alone = true;
        this.#counters.reissued += 1;
        this.#ready.push(entry);
      } else if (errno === 0 && entry.stable && !direct) this.#awaitSync(entry);
      else this.#finish(entry, statusOf(errno), errno);
    }
  }

  /** F8. */
  #awaitSync(entry: Entry): void {
    entry.need = this.#completed;
    if (this.#latched) {
      this.#finish(entry, abi.STATUS_FLUSH_LATCHED);
      return;
    }
    if (entry.op === abi.OP_WRITE) this.#counters.groupCommits += 1;
    this.#waiters.push(entry);
  }

  #finish(entry: Entry, status: number, errno = 0): void {
    const told = status === abi.STATUS_IO_ERROR || status === abi.STATUS_NO_SPACE;
    this.#finished.push({ entry, status, errno: told ? errno : 0 });
  }

  /** S2; whoever waited for these alone becomes ready. */
  #publish(): void {
    for (const { entry, status, errno } of this.#finished.splice(0)) {
      this.#unfinished.delete(entry);
      for (const later of entry.blocks) {
        later.blockers -= 1;
        if (later.blockers === 0) this.#ready.push(later);
      }
      this.#completions.push({ tag: entry.tag, status, value: entry.value, errno });
      this.#freeSlots.push(entry.slot);
    }
  }

  /** E2, E3. */
  #dispatch(): void {
    const room = this.#config.depth - this.#flights.size;
    if (room === 0) return;
    let runs = this.#cutRuns();
    let waiting: Entry[][] = [];
    if (runs.length > room) {
      const byAge = [...runs];
      byAge.sort((a, b) => oldest(a) - oldest(b));
      runs = byAge.slice(0, room);
      waiting = byAge.slice(room);
    }
    this.#ready = waiting.flat();
    for (const run of runs) this.#send(run);
  }

  /** E2: what waits, in order of place, cut where a neighbour cannot join. */
  #cutRuns(): Entry[][] {
    const runs: Entry[][] = [];
    this.#ready.sort(byPlace);
    for (const entry of this.#ready) {
      const run = runs.at(-1);
      if (run !== undefined && this.#joins(run, entry)) run.push(entry);
      else runs.push([entry]);
    }
    return runs;
  }

  #joins(run: readonly Entry[], entry: Entry): boolean {
    const last = run.at(-1)!;
    if (kindOf(last) !== kindOf(entry) || last.offset + last.length !== entry.offset) return false;
    if (last.alone || entry.alone || entry.op === abi.OP_BLOCK_STATUS) return false;
    if (entry.op > abi.OP_WRITE) return true;
    const bytes = run.reduce((sum, part) => sum + part.length, entry.length);
    const segments = run.reduce((sum, part) => sum + part.segments, entry.segments);
    return bytes <= this.#config.mergeBytes && segments <= MERGE_SEGMENTS;
  }

  #send(run: readonly Entry[]): void {
    const first = run[0]!;
    const direct = isStableWrite(first) && (this.#latched || !this.#othersAreStable(run)); // W3
    const id = this.#freeIds.pop()!;
    this.#flights.set(id, { parts: run, direct });
    this.#counters.commands += 1;
    this.#counters.merged += run.length - 1;
    const zeroFlags = first.flags & (abi.REQUEST_MAY_UNMAP | abi.REQUEST_FAST_ZERO);
    this.#commands.push({
      id,
      op: first.op,
      flags: direct ? COMMAND_STABLE : zeroFlags,
      file: 0,
      offset: first.offset,
      length: run.reduce((sum, part) => sum + part.length, 0),
      ...this.#transfer(run),
    });
  }

  #othersAreStable(run: readonly Entry[]): boolean {
    const stableWrites = [...this.#unfinished].filter(isStableWrite);
    return stableWrites.length > run.length;
  }

  /** X1, X2. */
  #transfer(run: readonly Entry[]): Pick<CommandRecord, 'segments' | 'data' | 'table'> {
    const { op, segments, data } = run[0]!;
    if (op > COMMAND_WRITE) return { segments, data, table: [] };
    const table = run.flatMap((part) =>
      segmentsOf(this.#memory, part.segments, part.data, part.length),
    );
    if (run.length === 1) return { segments, data, table };
    const joined = joinNeighbours(table);
    const only = joined.length === 1 ? joined[0]!.address : 0;
    return { segments: joined.length, data: only, table: joined };
  }

  #tally({ op, length }: Entry): void {
    const counters = this.#counters;
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
}

const NO_BYTES = { flags: 0, file: 0, segments: 0, data: 0, offset: 0, length: 0, table: [] };

/** 0 on top. */
function pile(size: number): number[] {
  return Array.from({ length: size }, (_, index) => size - 1 - index);
}

/** H1. */
function conflict(a: Entry, b: Entry): boolean {
  const overlap = a.start < b.end && b.start < a.end;
  return overlap && (isWriteClass(a.op) || isWriteClass(b.op));
}

function isStableWrite({ op, stable }: Entry): boolean {
  return op === abi.OP_WRITE && stable;
}

/** E2: what may share a command, in the order in which the elevator sends it. */
function kindOf({ op, flags, stable }: Entry): number {
  if (op === abi.OP_READ) return 0;
  if (op === abi.OP_BLOCK_STATUS) return 1;
  if (op === abi.OP_WRITE) return stable ? 3 : 2;
  if (op === abi.OP_DISCARD) return 8;
  const mayUnmap = (flags & abi.REQUEST_MAY_UNMAP) === 0 ? 0 : 1;
  const fast = (flags & abi.REQUEST_FAST_ZERO) === 0 ? 0 : 2;
  return 4 + mayUnmap + fast;
}

function byPlace(a: Entry, b: Entry): number {
  const sector = (entry: Entry): number => Math.floor(entry.offset / SECTOR_SIZE);
  return kindOf(a) - kindOf(b) || sector(a) - sector(b) || a.slot - b.slot;
}

function oldest(run: readonly Entry[]): number {
  return Math.min(...run.map((entry) => entry.sequence));
}

function joinNeighbours(table: readonly Segment[]): Segment[] {
  const joined: Segment[] = [];
  for (const { address, length } of table) {
    const last = joined.at(-1);
    if (last !== undefined && last.address + last.length === address) {
      joined[joined.length - 1] = { address: last.address, length: last.length + length };
    } else joined.push({ address, length });
  }
  return joined;
}
