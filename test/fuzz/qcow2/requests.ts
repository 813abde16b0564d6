/**
 * The requests of a run: their memory in the arena, and what must be true when they complete:
 *
 *   (a) each completes once, with a status that has a reason;
 *   (b) a read brings what the disk holds (shadow.ts), and a block status says no zero of data;
 *   (c) what was to be written is noted in the granules;
 *   (d) nothing else in the arena has changed.
 */

import * as map from '../../../src/abi/map.ts';
import * as region from '../../../src/abi/region.ts';
import * as abi from '../../../src/abi/request.ts';
import { flagsOf } from '../input.ts';
import { Violation } from '../ledger.ts';
import { isWriteClass } from '../refusal.ts';
import { noise } from './image.ts';
import type { Io, Setup } from './input.ts';
import { ARENA, ARENA_BYTES, FILLER, MAP } from './layout.ts';
import { Shadow } from './shadow.ts';

/** A request that the engine has. */
interface Open {
  readonly tag: number;
  readonly io: Io;
  /** The status that it must be refused with, or STATUS_OK. */
  readonly refusal: number;
  /** Its memory: the parts of the data, one behind the other with gaps, and the table. */
  readonly parts: readonly { readonly address: number; readonly length: number }[];
  /** The first byte, and the one behind the last. */
  readonly start: number;
  readonly end: number;
}

/** What goes into a record of the request ring. */
export interface Record {
  readonly tag: number;
  readonly segments: number;
  readonly data: number;
}

/** Requests at once. */
const OPEN_MAX = 640;
const GAP = 64;
const STATUS_BYTES = abi.EXTENT_TABLE_ENTRIES * abi.EXTENT_SIZE;
/** Statuses of requests that the host, or damage, has let down. */
const FAILURES: readonly number[] = [
  abi.STATUS_IO_ERROR,
  abi.STATUS_NO_SPACE,
  abi.STATUS_UNSUPPORTED,
  abi.STATUS_FLUSH_LATCHED,
];

/** See the head of the file. */
export class Requests {
  submitted = 0;
  readonly shadow = new Shadow();
  readonly open = new Map<number, Open>();
  /** True once the host has reported an error, or the image was damaged: then requests may fail. */
  mayFail = false;
  /** True when the image was damaged: what is read may be anything. */
  isDamaged = false;
  /** Resets so far: what is aborted has a reason. */
  #resets = 0;
  #setup!: Setup;
  #capacity = 0;
  #arenaAt = ARENA;
  readonly #view: DataView;
  readonly #bytes: Buffer;

  constructor(memory: WebAssembly.Memory) {
    this.#view = new DataView(memory.buffer);
    this.#bytes = Buffer.from(memory.buffer);
  }

  /** Forgets everything. */
  reset(setup: Setup, capacity: number): void {
    this.#setup = setup;
    this.#capacity = capacity;
    this.submitted = 0;
    this.open.clear();
    this.mayFail = false;
    this.isDamaged = false;
    this.#resets = 0;
    this.#arenaAt = ARENA;
  }

  /** Gives a request its memory; undefined when there is none. */
  submit(io: Io): Record | undefined {
    if (this.open.size === 0) this.#arenaAt = ARENA;
    const { op, pieces, length } = io;
    const isTransfer = op <= abi.OP_WRITE;
    const count = isTransfer ? Math.max(1, Math.min(pieces, length)) : 1;
    const dataBytes = isTransfer ? length : op === abi.OP_BLOCK_STATUS ? STATUS_BYTES : 0;
    const start = this.#arenaAt;
    const room = dataBytes + count * (GAP + abi.SEGMENT_SIZE) + GAP;
    if (start + room > ARENA + ARENA_BYTES || this.open.size >= OPEN_MAX) return undefined;
    const parts = this.#cut(start, dataBytes, count);
    const last = parts.at(-1) ?? { address: start, length: 0 };
    const table = Math.ceil((last.address + last.length + GAP / 2) / 8) * 8;
    const end = count > 1 ? table + count * abi.SEGMENT_SIZE : last.address + last.length;
    this.#arenaAt = Math.ceil(end / 8) * 8 + GAP;
    this.submitted += 1;
    const tag = this.submitted;
    if (op === abi.OP_WRITE) this.#fillData(tag, parts);
    for (const [index, { address, length: bytes }] of parts.entries()) {
      if (count === 1) break;
      const entry = table + index * abi.SEGMENT_SIZE;
      this.#view.setUint32(entry + abi.SEGMENT_ADDRESS, address, true);
      this.#view.setUint32(entry + abi.SEGMENT_LENGTH, bytes, true);
    }
    this.open.set(tag, { tag, io, refusal: this.#refusalOf(io), parts, start, end });
    if (op === abi.OP_RESET || op === abi.OP_RESET_QUEUE) this.#resets += 1;
    return { tag, segments: count, data: count > 1 ? table : last.address };
  }

  /** Parts of the memory of a transfer. */
  #cut(start: number, bytes: number, count: number): { address: number; length: number }[] {
    const part = Math.floor(bytes / count);
    return Array.from({ length: count }, (_, index) => ({
      address: start + index * (part + (count > 1 ? GAP - (part % 8) : 0)),
      length: index === count - 1 ? bytes - part * index : part,
    }));
  }

  #fillData(tag: number, parts: Open['parts']): void {
    let at = 0;
    const data = noise(tag * 31 + 5, 131072);
    for (const { address, length } of parts) {
      this.#bytes.set(data.subarray(at, at + length), address);
      at += length;
    }
  }

  #refusalOf({ op, flags, offset, length }: Io): number {
    const config = this.#setup.flags;
    const offered = (config & region.CONFIG_BARRIER) !== 0 ? 255 : ~abi.REQUEST_BARRIER;
    if ((flags & ~(flagsOf(op) & offered)) !== 0) return abi.STATUS_INVALID;
    if (op >= abi.OP_FLUSH) return abi.STATUS_OK;
    const readOnly = (config & region.CONFIG_READ_ONLY) !== 0;
    if (isWriteClass(op) && readOnly) return abi.STATUS_READ_ONLY;
    return offset + length > this.#capacity ? abi.STATUS_OUT_OF_RANGE : abi.STATUS_OK;
  }

  /** A completion. */
  complete(tag: number, status: number, value: number): void {
    const request = this.open.get(tag);
    if (request === undefined) throw new Violation(`(a): request ${tag} completes twice`);
    this.open.delete(tag);
    const { io, refusal } = request;
    this.#checkStatus(request, status);
    if (refusal === abi.STATUS_OK && io.op < abi.OP_FLUSH && io.length > 0) {
      if (isWriteClass(io.op)) this.#changed(request, status);
      else if (status === abi.STATUS_OK && !this.isDamaged) this.#look(request, value);
    }
    this.#bytes.fill(FILLER, request.start, request.end);
  }

  #checkStatus({ tag, io, refusal }: Open, status: number): void {
    if (refusal !== abi.STATUS_OK) {
      if (status === refusal) return;
      if (status === abi.STATUS_ABORTED && this.#resets > 0) return;
      throw new Violation(`(a): request ${tag} ends with ${status}, not ${refusal}`);
    }
    if (status === abi.STATUS_OK) return;
    if (status === abi.STATUS_ABORTED && this.#resets > 0) return;
    if (this.mayFail && FAILURES.includes(status)) return;
    const isFast = (io.flags & abi.REQUEST_FAST_ZERO) !== 0;
    if (status === abi.STATUS_UNSUPPORTED && isFast) return;
    // The refcount table may grow no further.
    if (status === abi.STATUS_NO_SPACE && this.#setup.shape.isFull) return;
    // A barrier may fail for what failed before it.
    const isBarrier = (io.flags & abi.REQUEST_BARRIER) !== 0;
    const fails = (this.#setup.flags & region.CONFIG_BARRIER_FAILS) !== 0;
    if (status === abi.STATUS_IO_ERROR && fails && isBarrier) return;
    throw new Violation(`(a): request ${tag} ends with status ${status}: nothing has failed`);
  }

  #changed({ tag, io, parts }: Open, status: number): void {
    if (status === abi.STATUS_OK) this.#checkGranules(io);
    if (this.isDamaged) return;
    const data = io.op === abi.OP_WRITE ? this.#bytesOf(parts) : this.#bytes.subarray(0, 0);
    if (io.op === abi.OP_WRITE) this.#checkData(tag, data);
    this.shadow.change(io, status, data);
  }

  /** Nobody but the guest writes to the memory of its writes. */
  #checkData(tag: number, data: Uint8Array): void {
    const same = Buffer.compare(data, noise(tag * 31 + 5, data.length)) === 0;
    if (!same) throw new Violation(`(d): the data of write ${tag} has changed`);
  }

  #checkGranules({ offset, length }: Io): void {
    const bits = this.#setup.granuleBits;
    if (bits === 0) return;
    const at = MAP + this.#view.getUint32(MAP + map.MAP_GRANULES_AT, true);
    const last = Math.floor((offset + length - 1) / 2 ** bits);
    for (let granule = Math.floor(offset / 2 ** bits); granule <= last; granule++) {
      if (((this.#bytes[at + (granule >> 3)]! >> (granule & 7)) & 1) === 1) continue;
      throw new Violation(`(c): granule ${granule} is not noted`);
    }
  }

  #bytesOf(parts: Open['parts']): Uint8Array {
    const [first] = parts;
    if (parts.length === 1 && first !== undefined) {
      return this.#bytes.subarray(first.address, first.address + first.length);
    }
    return Buffer.concat(
      parts.map(({ address, length }) => this.#bytes.subarray(address, address + length)),
    );
  }

  #look({ io, parts }: Open, value: number): void {
    if (io.op === abi.OP_READ) this.shadow.read(io.offset, this.#bytesOf(parts));
    else this.#lookAtStatus(io, parts[0]?.address ?? 0, value);
  }

  #lookAtStatus({ offset, length }: Io, table: number, value: number): void {
    if (value < 1 || value > abi.EXTENT_TABLE_ENTRIES) throw new Violation(`${value} extents`);
    let done = 0;
    for (let index = 0; index < value; index++) {
      const entry = table + index * abi.EXTENT_SIZE;
      const bytes = Number(this.#view.getBigUint64(entry + abi.EXTENT_LENGTH, true));
      const flags = this.#view.getUint32(entry + abi.EXTENT_FLAGS, true);
      if (bytes === 0 || done + bytes > length) {
        throw new Violation(`status: an extent of ${bytes} bytes at ${done} of ${length}`);
      }
      if ((flags & abi.EXTENT_ZERO) !== 0) this.shadow.checkZero(offset + done, bytes);
      done += bytes;
    }
  }

  /** (d): at the end nothing but fillers is in the arena. */
  checkArena(): void {
    const arena = this.#bytes.subarray(ARENA, ARENA + ARENA_BYTES);
    if (Buffer.compare(arena, FILLED) === 0) return;
    const at = arena.findIndex((byte) => byte !== FILLER);
    const found = arena[at];
    arena.fill(FILLER);
    throw new Violation(`(d): byte ${at} of the arena is ${found}`);
  }
}

const FILLED = Buffer.alloc(ARENA_BYTES, FILLER);
