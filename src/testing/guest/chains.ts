/**
 * The chains that a driver's queue has in flight, by token: what to give back when they are used,
 * and, with IN_ORDER, in which order they were added.
 */
import { DESC_SIZE } from '../../abi/virtio-ring.ts';
import type { Descriptor, UsedBuffer } from './driver-queue.ts';
import type { GuestMemory } from './memory.ts';

/** See the head of the file. Tokens are smaller than the queue's size. */
export class Chains {
  /** Chains in flight. */
  count = 0;

  readonly #memory: GuestMemory;
  /** Descriptors in the ring; 0: the token is free. */
  readonly #descriptors: Uint16Array;
  readonly #writable: Float64Array;
  readonly #tables: Float64Array;
  readonly #tableEntries: Uint32Array;
  /** With IN_ORDER: the tokens in the order of their adding, a ring. */
  readonly #order: Uint16Array | undefined;
  #first = 0;

  constructor(memory: GuestMemory, size: number, inOrder: boolean) {
    this.#memory = memory;
    this.#descriptors = new Uint16Array(size);
    this.#writable = new Float64Array(size);
    this.#tables = new Float64Array(size);
    this.#tableEntries = new Uint32Array(size);
    this.#order = inOrder ? new Uint16Array(size) : undefined;
  }

  /** Whether a chain with this token is in flight. */
  has(token: number): boolean {
    return (this.#descriptors[token] ?? 0) !== 0;
  }

  /** Descriptors of the ring that the chain takes; 0 when there is none. */
  descriptors(token: number): number {
    return this.#descriptors[token] ?? 0;
  }

  /** Bytes of all its writable buffers. */
  writable(token: number): number {
    return this.#writable[token] ?? 0;
  }

  /** With IN_ORDER: the chain that was added first, or -1. */
  oldest(): number {
    if (this.#order === undefined || this.count === 0) return -1;
    return this.#order[this.#first] ?? -1;
  }

  /** With IN_ORDER, what answers `last` answers those before it first, as if written whole. */
  answered(last: number, length: number): UsedBuffer {
    const known = this.has(last);
    const oldest = this.oldest();
    const token = known && oldest !== -1 ? oldest : last;
    return { token, length: token === last ? length : this.writable(token), known };
  }

  /** Notes a chain. A table of no entries is none. */
  put(token: number, descriptors: number, chain: readonly Descriptor[], table = 0, entries = 0) {
    let writable = 0;
    for (const descriptor of chain) if (descriptor.writable) writable += descriptor.length;
    this.#descriptors[token] = descriptors;
    this.#writable[token] = writable;
    this.#tables[token] = table;
    this.#tableEntries[token] = entries;
    if (this.#order !== undefined) {
      this.#order[(this.#first + this.count) % this.#order.length] = token;
    }
    this.count++;
  }

  /** Forgets a chain that is in flight, and frees its indirect table. */
  take(token: number): void {
    const entries = this.#tableEntries[token] ?? 0;
    if (entries > 0) this.#memory.free(this.#tables[token] ?? 0, entries * DESC_SIZE);
    this.#descriptors[token] = 0;
    if (this.#order !== undefined) this.#first = (this.#first + 1) % this.#order.length;
    this.count--;
  }
}

/** The values that a fixed ring of numbers lends and takes back, the longest free one first. */
export class FreeList {
  count: number;
  readonly #values: Uint16Array;
  #first = 0;

  /** Lends 0 to size - 1, beginning at `start`. */
  constructor(size: number, start = 0) {
    this.count = size;
    this.#values = Uint16Array.from({ length: size }, (_, index) => (start + index) % size);
  }

  /** The value that `take` will lend after `ahead` others. */
  peek(ahead = 0): number {
    return this.#values[(this.#first + ahead) % this.#values.length] ?? 0;
  }

  /** Lends a value. */
  take(): number {
    const value = this.peek();
    this.#first = (this.#first + 1) % this.#values.length;
    this.count--;
    return value;
  }

  /** Takes a value back. */
  give(value: number): void {
    this.#values[(this.#first + this.count) % this.#values.length] = value;
    this.count++;
  }
}
