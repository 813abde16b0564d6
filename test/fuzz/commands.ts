/**
 * The commands at the host of a fuzzed engine, and what must be true of each when it comes:
 *
 *   (g) its record: id, operation, flags, range, segments; the depth and the limits of merging (E2,
 *       C1, T2, M1); and that it carries bytes of requests that are open (X1);
 *   (h) that no two commands at the host conflict (H2, L3), and that one sync runs for each file,
 *       none when flushes are ignored (F4, W1).
 */

import {
  COMMAND_BLOCK_STATUS,
  COMMAND_DATA,
  COMMAND_FILE,
  COMMAND_FLAGS,
  COMMAND_ID,
  COMMAND_LENGTH,
  COMMAND_OFFSET,
  COMMAND_OP,
  COMMAND_SEGMENTS,
  COMMAND_SIZE,
  COMMAND_STABLE,
  COMMAND_SYNC,
  COMMAND_WRITE,
  COMMAND_WRITE_ZEROES,
} from '../../src/abi/command.ts';
import {
  COMMAND_SLOTS,
  FILES,
  MERGE_RANGE_BYTES,
  MERGE_SEGMENTS,
  REQUEST_SLOTS,
  RING_ENTRIES,
} from '../../src/abi/limits.ts';
import * as region from '../../src/abi/region.ts';
import * as abi from '../../src/abi/request.ts';
import type { Setup } from './input.ts';
import { MEMORY_BYTES, REGION } from './layout.ts';
import { type Ledger, OPEN, Violation } from './ledger.ts';
import { isWriteClass } from './refusal.ts';

const IDS = COMMAND_SLOTS + FILES;
const HIGH_WORD = 0x1_0000_0000;

/** FNV-1a, over words. */
export class Digest {
  value = 0;

  /** Starts anew. */
  reset(): void {
    this.value = 0x811c9dc5;
  }

  /** Takes a word in. */
  add(word: number): void {
    this.value = Math.imul(this.value ^ word, 0x01000193) >>> 0;
  }
}

/** See the head of the file. */
export class Commands {
  readonly #view: DataView;
  readonly #ledger: Ledger;
  readonly #digest: Digest;
  #setup!: Setup;

  // What each id stands for.
  readonly #isOut = new Uint8Array(IDS);
  readonly #op = new Uint8Array(IDS);
  readonly #stable = new Uint8Array(IDS);
  readonly #file = new Uint8Array(IDS);
  readonly #from = new Float64Array(IDS);
  readonly #to = new Float64Array(IDS);
  /** The pump that has emitted it. */
  readonly #began = new Float64Array(IDS);
  /** The requests that may ride in it. */
  readonly #riders = new Int32Array(IDS * REQUEST_SLOTS);
  readonly #riderCount = new Uint32Array(IDS);
  /** Their ids, first come first. */
  readonly out: number[] = [];
  #dataOut = 0;

  constructor(view: DataView, ledger: Ledger, digest: Digest) {
    this.#view = view;
    this.#ledger = ledger;
    this.#digest = digest;
  }

  /** Forgets everything. */
  reset(setup: Setup): void {
    this.#setup = setup;
    this.#isOut.fill(0);
    this.out.length = 0;
    this.#dataOut = 0;
  }

  /** Looks at the command at a position of the ring. */
  read(position: number): void {
    const view = this.#view;
    const at = REGION + region.COMMAND_RING + (position % RING_ENTRIES) * COMMAND_SIZE;
    const id = view.getUint32(at + COMMAND_ID, true);
    const op = view.getUint8(at + COMMAND_OP);
    const flags = view.getUint8(at + COMMAND_FLAGS);
    const file = view.getUint16(at + COMMAND_FILE, true);
    this.#digest.add(id);
    this.#digest.add(op | (flags << 8) | (file << 16));
    if (id >= IDS || this.#isOut[id] === 1) throw new Violation(`C1: the id ${id}`);
    if (file >= this.#setup.files) throw new Violation(`(g): a command for file ${file}`);
    this.#isOut[id] = 1;
    this.#op[id] = op;
    this.#file[id] = file;
    this.#began[id] = this.#ledger.clock;
    this.#riderCount[id] = 0;
    this.out.push(id);
    if (op === COMMAND_SYNC) this.#beginSync(id, file);
    else this.#beginData(id, at);
  }

  #beginSync(id: number, file: number): void {
    if (id !== COMMAND_SLOTS + file) throw new Violation(`C1: a sync of file ${file} is ${id}`);
    if ((this.#setup.flags & region.CONFIG_NO_FLUSH) !== 0) throw new Violation('W1: a sync');
    this.#ledger.beginSync(file);
  }

  #beginData(id: number, at: number): void {
    const view = this.#view;
    const op = this.#op[id]!;
    const flags = view.getUint8(at + COMMAND_FLAGS);
    const offset = getU64(view, at + COMMAND_OFFSET);
    const length = getU64(view, at + COMMAND_LENGTH);
    this.#digest.add(offset % HIGH_WORD);
    this.#digest.add(length % HIGH_WORD);
    this.#dataOut += 1;
    if (id >= COMMAND_SLOTS || op > COMMAND_BLOCK_STATUS) throw new Violation(`C1: op ${op}`);
    if (this.#dataOut > this.#setup.depth) throw new Violation('E2: past the depth');
    this.#checkFlags(op, flags);
    this.#stable[id] = Number(op === COMMAND_WRITE && (flags & COMMAND_STABLE) !== 0);
    const from = this.#guestOffset(this.#file[id]!, offset, length);
    this.#from[id] = from;
    this.#to[id] = from + length;
    if (length === 0 || from + length > this.#setup.capacityBytes) {
      throw new Violation(`(g): a command at ${from}+${length}`);
    }
    this.#checkRivals(id);
    const segments = view.getUint32(at + COMMAND_SEGMENTS, true);
    const data = view.getUint32(at + COMMAND_DATA, true);
    this.#findRiders(id, op <= COMMAND_WRITE ? segments : 1);
    if (op <= COMMAND_WRITE) this.#checkSegments(segments, data, length);
  }

  #checkFlags(op: number, flags: number): void {
    const config = this.#setup.flags;
    let allowed = op === COMMAND_WRITE_ZEROES ? abi.REQUEST_MAY_UNMAP | abi.REQUEST_FAST_ZERO : 0;
    const offered = (config & region.CONFIG_FUA) !== 0 && (config & region.CONFIG_NO_FLUSH) === 0;
    if (op === COMMAND_WRITE && offered) allowed = COMMAND_STABLE;
    if ((flags & ~allowed) !== 0) throw new Violation(`(g): flags ${flags} of a command ${op}`);
  }

  /** M1: where a place in a host file lies on the disk. */
  #guestOffset(file: number, offset: number, length: number): number {
    const { files, chunkBytes } = this.#setup;
    if (files === 1) return offset;
    const chunk = Math.floor(offset / chunkBytes);
    const inChunk = offset - chunk * chunkBytes;
    if (inChunk + length > chunkBytes) throw new Violation('M1: a command passes its chunk');
    return (chunk * files + file) * chunkBytes + inChunk;
  }

  /** H2, L3. */
  #checkRivals(id: number): void {
    const granule = this.#setup.blockSize;
    const start = Math.floor(this.#from[id]! / granule) * granule;
    const end = Math.ceil(this.#to[id]! / granule) * granule;
    const writes = isWriteClass(this.#op[id]!);
    for (const other of this.out) {
      if (other === id || other >= COMMAND_SLOTS) continue;
      if (!writes && !isWriteClass(this.#op[other]!)) continue;
      if (this.#to[other]! <= start || Math.ceil(this.#to[other]! / granule) * granule <= start) {
        continue;
      }
      if (Math.floor(this.#from[other]! / granule) * granule >= end) continue;
      throw new Violation(`H2, L3: commands ${other} and ${id} conflict at the host`);
    }
  }

  /** Notes whose bytes a command may carry: all of them belong to somebody (X1, E2). */
  #findRiders(id: number, segments: number): void {
    const ledger = this.#ledger;
    const op = this.#op[id]!;
    const from = this.#from[id]!;
    const to = this.#to[id]!;
    let carried = 0;
    let isWhole = false;
    let riders = 0;
    for (let index = ledger.firstOpen; index < ledger.taken; index++) {
      if (ledger.op[index] !== op || ledger.status[index] !== OPEN) continue;
      if (ledger.from[index]! >= to || ledger.to[index]! <= from) continue;
      if (ledger.refusal[index] !== abi.STATUS_OK && !ledger.wild) continue;
      this.#riders[id * REQUEST_SLOTS + riders] = index;
      riders += 1;
      carried += Math.min(to, ledger.to[index]!) - Math.max(from, ledger.from[index]!);
      if (ledger.from[index]! <= from && ledger.to[index]! >= to) isWhole = true;
    }
    this.#riderCount[id] = riders;
    if (carried < to - from) throw new Violation(`X1: a command of nobody at ${from}`);
    if (isWhole) return;
    const limit = op <= COMMAND_WRITE ? this.#setup.mergeBytes : MERGE_RANGE_BYTES;
    if (op === COMMAND_BLOCK_STATUS || to - from > limit || segments > MERGE_SEGMENTS) {
      throw new Violation(`E2: a merged command ${op} of ${to - from} bytes, ${segments} segments`);
    }
  }

  #checkSegments(segments: number, data: number, length: number): void {
    if (segments === 1) {
      if (data + length > MEMORY_BYTES) throw new Violation('T2: outside of the memory');
      this.#digest.add(data);
      return;
    }
    const end = data + segments * abi.SEGMENT_SIZE;
    if (segments === 0 || end > MEMORY_BYTES) throw new Violation('T2: the segment table');
    if (this.#ledger.wild) return;
    let bytes = 0;
    for (let entry = data; entry < end; entry += abi.SEGMENT_SIZE) {
      const address = this.#view.getUint32(entry + abi.SEGMENT_ADDRESS, true);
      const size = this.#view.getUint32(entry + abi.SEGMENT_LENGTH, true);
      if (address + size > MEMORY_BYTES) throw new Violation('T2: outside of the memory');
      this.#digest.add(address);
      bytes += size;
    }
    if (bytes !== length) throw new Violation(`X1: ${bytes} of ${length} bytes have memory`);
  }

  /** Answers the command at place `at` of those at the host; returns its id. */
  answer(at: number, errno: number): number {
    const ledger = this.#ledger;
    const [id] = this.out.splice(at, 1) as [number];
    const file = this.#file[id]!;
    this.#isOut[id] = 0;
    if (id >= COMMAND_SLOTS) {
      ledger.endSync(file, this.#began[id]!, errno);
      return id;
    }
    this.#dataOut -= 1;
    const stable = this.#stable[id] === 1;
    if (isWriteClass(this.#op[id]!) && (!stable || errno !== 0)) ledger.dirty(file);
    for (let rider = 0; rider < this.#riderCount[id]!; rider++) {
      const index = this.#riders[id * REQUEST_SLOTS + rider]!;
      const from = Math.max(this.#from[id]!, ledger.from[index]!);
      const bytes = Math.min(this.#to[id]!, ledger.to[index]!) - from;
      if (ledger.status[index] === OPEN) ledger.answer(index, bytes, file, stable, errno);
    }
    return id;
  }
}

function getU64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * HIGH_WORD;
}
