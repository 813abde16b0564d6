/**
 * Transfers by io_uring: one ring for each thread, on which everything that was asked for in a turn
 * of the event loop is submitted by a few system calls, and whose answers take none.
 *
 *   transfer ──▶ queued ──submit──▶ at the kernel ──ring readable──▶ settle(result)
 *
 * U1  A transfer is settled once, from the event loop, never from inside `transfer`.
 * U2  No more are open than the completion ring has entries: the kernel never has to hold one back.
 * U3  Vectors are the caller's, and are left alone until they were handed over (the kernel copies
 *     them then: IORING_FEAT_SUBMIT_STABLE). `submissions` tells that all were.
 * U4  What the kernel does not take is settled with its error, or offered again when it is short of
 *     memory.
 *
 * Linux, include/uapi/linux/io_uring.h.
 */
import { closeSync } from 'node:fs';

import { EAGAIN, EBUSY, EINTR } from './errno.ts';
import { loadUringNative, type UringNative, type Watch } from './uring-native.ts';

/** Entries of the submission ring; the completion ring has twice as many. */
const ENTRIES = 256;

export const URING_READV = 1;
export const URING_WRITEV = 2;
export const URING_READ = 22;
export const URING_WRITE = 23;

/** struct io_uring_params, in words. */
const PARAMS_WORDS = 30;
const PARAMS_SQ_ENTRIES = 0;
const PARAMS_CQ_ENTRIES = 1;
const PARAMS_FEATURES = 5;
const PARAMS_SQ_OFF = 10;
const PARAMS_CQ_OFF = 20;
// struct io_sqring_offsets and io_cqring_offsets, in words.
const OFF_HEAD = 0;
const OFF_TAIL = 1;
const SQ_OFF_ARRAY = 6;
const CQ_OFF_CQES = 5;

/** SINGLE_MMAP, NODROP, SUBMIT_STABLE and RW_CUR_POS: Linux 5.6, which has READ and WRITE. */
const FEATURES = 0b1111;

const OFFSET_RINGS = 0;
const OFFSET_ENTRIES = 0x1000_0000;
const SQE_SIZE = 64;
const SQE_WORDS = 16;
// struct io_uring_sqe, in words.
const SQE_OPCODE = 0;
const SQE_FD = 1;
const SQE_OFFSET = 2;
const SQE_ADDRESS = 4;
const SQE_LENGTH = 6;
const SQE_USER_DATA = 8;
const CQE_SIZE = 16;
const CQE_WORDS = 4;
const CQE_RESULT = 2;

const WORD = 2 ** 32;

/**
 * What is asked for together is submitted in so many parts, and no part is larger than this: a host
 * answers together what it got together, and then rests until the asker has seen it all and asks
 * again. In parts one part is under way while another is looked at.
 */
const PARTS = 4;
const LARGEST_PART = 8;

/** Looks at the ring in one turn of the event loop; then others have theirs. */
const ROUNDS_OF_A_TURN = 4;
const RETRY_MS = 1;

/** Gets the bytes that were moved, or a negative errno. */
export type UringSettle = (result: number) => void;

export class Uring {
  /** How often all that was queued has been handed over. */
  submissions = 0;
  readonly #native: UringNative;
  readonly #fd: number;
  readonly #rings: Int32Array;
  readonly #entries: Uint32Array;
  readonly #places: Places;
  #watch: Watch | undefined;
  readonly #settles: (UringSettle | undefined)[];
  readonly #free: number[];
  readonly #capacity: number;
  #tail: number;
  /** Not submitted yet. */
  #queued = 0;
  #scheduled = false;
  readonly #submitSoon = (): void => {
    this.#scheduled = false;
    this.submit();
  };

  private constructor(native: UringNative, fd: number, mapped: Mapped, places: Places) {
    this.#native = native;
    this.#fd = fd;
    this.#rings = mapped.rings;
    this.#entries = mapped.entries;
    this.#places = places;
    this.#capacity = places.completions;
    this.#settles = Array.from({ length: places.completions }, () => undefined);
    this.#free = Array.from({ length: places.completions }, (_, slot) => slot);
    this.#tail = this.#rings[places.sqTail] ?? 0;
  }

  /** A ring, or undefined where the system has none for us. */
  static open(native: UringNative | undefined = loadUringNative()): Uring | undefined {
    if (native === undefined) return undefined;
    const params = new Uint32Array(PARAMS_WORDS);
    const fd = native.setup(ENTRIES, params);
    // Too old, forbidden (seccomp, kernel.io_uring_disabled), or no memory for it.
    if (fd < 0) return undefined;
    const ring = Uring.#over(native, fd, params);
    if (ring === undefined) closeSync(fd);
    return ring;
  }

  static #over(native: UringNative, fd: number, params: Uint32Array): Uring | undefined {
    if (((params[PARAMS_FEATURES] ?? 0) & FEATURES) !== FEATURES) return undefined;
    const places = placesOf(params);
    const rings = native.map(fd, places.ringBytes, OFFSET_RINGS);
    const entries = native.map(fd, places.entries * SQE_SIZE, OFFSET_ENTRIES);
    if (rings === undefined || entries === undefined) return undefined;
    const mapped = { rings: new Int32Array(rings), entries: new Uint32Array(entries) };
    const ring = new Uring(native, fd, mapped, places);
    ring.#watch = native.watch(fd, () => ring.#reap());
    return ring.#watch === undefined ? undefined : ring;
  }

  /** Transfers that are not settled. */
  get open(): number {
    return this.#capacity - this.#free.length;
  }

  /**
   * Starts a transfer; false: there is no room now.
   * @param op URING_READ, URING_WRITE with the address and the length in bytes; URING_READV,
   *   URING_WRITEV with the address of a vector and the number of its entries (U3)
   */
  transfer(
    op: number,
    fd: number,
    offset: number,
    address: number,
    length: number,
    settle: UringSettle,
  ): boolean {
    if (this.#queued === this.#places.entries) this.submit();
    if (this.#queued === this.#places.entries) return false;
    const slot = this.#free.pop();
    if (slot === undefined) return false;
    if (this.#free.length === this.#capacity - 1) this.#watch?.hold();
    this.#settles[slot] = settle;
    const index = this.#tail & this.#places.sqMask;
    const at = index * SQE_WORDS;
    const entries = this.#entries;
    entries.fill(0, at, at + SQE_WORDS);
    entries[at + SQE_OPCODE] = op;
    entries[at + SQE_FD] = fd;
    entries[at + SQE_OFFSET] = offset;
    entries[at + SQE_OFFSET + 1] = offset / WORD;
    entries[at + SQE_ADDRESS] = address;
    entries[at + SQE_ADDRESS + 1] = address / WORD;
    entries[at + SQE_LENGTH] = length;
    entries[at + SQE_USER_DATA] = slot;
    this.#rings[this.#places.sqArray + index] = index;
    this.#tail = (this.#tail + 1) | 0;
    Atomics.store(this.#rings, this.#places.sqTail, this.#tail);
    this.#queued += 1;
    this.#schedule();
    return true;
  }

  /** Hands over what is queued. */
  submit(): void {
    const part = Math.min(Math.ceil(this.#queued / PARTS), LARGEST_PART);
    while (this.#queued > 0) {
      const taken = this.#native.submit(this.#fd, Math.min(this.#queued, part));
      if (taken > 0) {
        this.#queued -= taken;
        if (this.#queued === 0) this.submissions += 1;
      } else if (taken === -EAGAIN || taken === -EBUSY || taken === -EINTR || taken === 0) {
        this.#scheduled = true;
        setTimeout(this.#submitSoon, RETRY_MS);
        return;
      } else this.#refuse(taken);
    }
  }

  /** After the calls of this turn, which may have more. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(this.#submitSoon);
  }

  /** Takes back what the kernel will not take (U4). */
  #refuse(result: number): void {
    const slots: number[] = [];
    for (; this.#queued > 0; this.#queued--) {
      this.#tail = (this.#tail - 1) | 0;
      const index = this.#tail & this.#places.sqMask;
      slots.push(this.#entries[index * SQE_WORDS + SQE_USER_DATA] ?? 0);
    }
    Atomics.store(this.#rings, this.#places.sqTail, this.#tail);
    setImmediate(() => {
      for (const slot of slots.toReversed()) this.#settle(slot, result);
    });
  }

  /** Settles what the kernel has answered. */
  #reap(): void {
    for (let round = 0; round < ROUNDS_OF_A_TURN; round++) {
      const { cqHead, cqTail, cqMask, cqEntries } = this.#places;
      const rings = this.#rings;
      let head = rings[cqHead] ?? 0;
      const tail = Atomics.load(rings, cqTail);
      if (head === tail) return;
      while (head !== tail) {
        const at = cqEntries + (head & cqMask) * CQE_WORDS;
        const slot = rings[at] ?? 0;
        const result = rings[at + CQE_RESULT] ?? 0;
        head = (head + 1) | 0;
        // Given back first: whoever is settled may ask for more, or throw.
        Atomics.store(rings, cqHead, head);
        this.#settle(slot, result);
      }
    }
  }

  #settle(slot: number, result: number): void {
    const settle = this.#settles[slot];
    this.#settles[slot] = undefined;
    this.#free.push(slot);
    if (this.#free.length === this.#capacity) this.#watch?.release();
    settle?.(result);
  }
}

/** The two mappings of a ring. */
interface Mapped {
  readonly rings: Int32Array;
  readonly entries: Uint32Array;
}

/** Where things are in the mapping of both rings, as indices of words, and how many there are. */
interface Places {
  readonly entries: number;
  readonly completions: number;
  readonly ringBytes: number;
  readonly sqTail: number;
  readonly sqMask: number;
  readonly sqArray: number;
  readonly cqHead: number;
  readonly cqTail: number;
  readonly cqMask: number;
  readonly cqEntries: number;
}

function placesOf(params: Uint32Array): Places {
  const entries = params[PARAMS_SQ_ENTRIES] ?? 0;
  const completions = params[PARAMS_CQ_ENTRIES] ?? 0;
  const sq = (field: number): number => params[PARAMS_SQ_OFF + field] ?? 0;
  const cq = (field: number): number => params[PARAMS_CQ_OFF + field] ?? 0;
  return {
    entries,
    completions,
    ringBytes: Math.max(sq(SQ_OFF_ARRAY) + entries * 4, cq(CQ_OFF_CQES) + completions * CQE_SIZE),
    sqTail: sq(OFF_TAIL) / 4,
    // Both rings have a power of two of entries.
    sqMask: entries - 1,
    sqArray: sq(SQ_OFF_ARRAY) / 4,
    cqHead: cq(OFF_HEAD) / 4,
    cqTail: cq(OFF_TAIL) / 4,
    cqMask: completions - 1,
    cqEntries: cq(CQ_OFF_CQES) / 4,
  };
}

let shared: Uring | null | undefined;

/** The ring of this thread, made when it is first asked for; null where there is none. */
export function threadUring(): Uring | null {
  // As if koffi were not there, which a ring is made with.
  if (process.env['SLUICE_NO_KOFFI']) return null;
  shared ??= Uring.open() ?? null;
  return shared;
}
