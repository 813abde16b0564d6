/**
 * The data arena: page-aligned transfer buffers in the engine's memory, handed out by buddy
 * allocators. Its size is fixed when the disk is opened; who finds it full waits in line, so memory
 * is bounded whatever clients ask for.
 *
 * One half is for small buffers and one for large ones, each with a line of its own: somebody who
 * sits on large buffers keeps nobody's 4 KiB read waiting, and small ones do not splinter the
 * space of the large. Where there is room for it, half of the large one is for the largest, those
 * that kernels and copying programs do not ask for.
 */

/** Smallest buffer, and the alignment of all: a page, so that O_DIRECT needs no copy. */
export const PAGE_SIZE = 4096;

/** Longest small buffer. */
const SMALL_BUFFER_BYTES = 32_768;
/** Longest large buffer that is not among the largest. */
const USUAL_BUFFER_BYTES = 2_097_152;
/** Arenas from here on have a part for the largest buffers: what is left is as long as NBD's. */
const PARTED_ARENA_BYTES = 2 ** 27;
const SMALLEST_ARENA_BYTES = 65_536;
const LARGEST_ARENA_BYTES = 2 ** 30;
const PAGE_BITS = 12;
/** Freed blocks of one order that are kept as they are: the usual sizes need no splitting. */
const KEPT_BLOCKS = 256;

/** A caller that waits for a buffer of `lengthBytes`. */
interface Waiter {
  readonly lengthBytes: number;
  readonly grant: (address: number) => void;
}

/** Order of the smallest block that holds `lengthBytes`: 0 is a page. */
function orderOf(lengthBytes: number): number {
  return lengthBytes <= PAGE_SIZE ? 0 : 32 - Math.clz32((lengthBytes - 1) >>> PAGE_BITS);
}

/** One buddy allocator with its line of waiters. */
class Pool {
  readonly #base: number;
  readonly #largestOrder: number;
  /** Free blocks by order, as page numbers, joined with their buddies. */
  readonly #free: Set<number>[] = [];
  /** Kept blocks by order, as page numbers; the last freed is the first reused: it is warm. */
  readonly #kept: Uint32Array[] = [];
  readonly #keptCounts: Uint32Array;
  readonly #waiters: Waiter[] = [];
  readonly #pages: number;
  #lent = 0;

  constructor(base: number, lengthBytes: number) {
    this.#base = base;
    this.#pages = lengthBytes / PAGE_SIZE;
    this.#largestOrder = orderOf(lengthBytes);
    this.#keptCounts = new Uint32Array(this.#largestOrder + 1);
    for (let order = 0; order <= this.#largestOrder; order++) {
      this.#free.push(new Set());
      this.#kept.push(new Uint32Array(KEPT_BLOCKS));
    }
    this.#free[this.#largestOrder]?.add(0);
  }

  /** Largest buffer that can be asked for, in bytes. */
  get largestBytes(): number {
    return this.#pages * PAGE_SIZE;
  }

  /** Every buffer has come back. */
  get idle(): boolean {
    return this.#lent === 0;
  }

  /** True when somebody waits: a newcomer must wait too, or the large starve. */
  get contended(): boolean {
    return this.#waiters.length > 0;
  }

  /** The address of a buffer of at least `lengthBytes`, or 0 when none is free or others wait. */
  allocate(lengthBytes: number): number {
    return this.contended ? 0 : this.#take(orderOf(lengthBytes));
  }

  /** Calls `grant` with an address as soon as there is one, in the order of the calls. */
  whenFree(lengthBytes: number, grant: (address: number) => void): void {
    if (lengthBytes > this.largestBytes) {
      throw new RangeError(`${lengthBytes} bytes asked of an arena of ${this.largestBytes}`);
    }
    this.#waiters.push({ lengthBytes, grant });
    this.#serve();
  }

  /** Gives back a buffer with the length it was asked for. */
  release(address: number, lengthBytes: number): void {
    this.#lent -= 1;
    const page = (address - this.#base) >>> PAGE_BITS;
    const order = orderOf(lengthBytes);
    const kept = this.#keptCounts[order] ?? KEPT_BLOCKS;
    if (kept < KEPT_BLOCKS && !this.contended) {
      const pages = this.#kept[order];
      if (pages !== undefined) pages[kept] = page;
      this.#keptCounts[order] = kept + 1;
      return;
    }
    this.#join(page, order);
    if (this.contended) this.#serve();
  }

  #take(order: number): number {
    const address = this.#find(order);
    if (address !== 0) this.#lent += 1;
    return address;
  }

  #find(order: number): number {
    const kept = this.#keptCounts[order] ?? 0;
    if (kept > 0) {
      this.#keptCounts[order] = kept - 1;
      return this.#addressOf(this.#kept[order]?.[kept - 1] ?? 0);
    }
    const address = this.#split(order);
    if (address !== 0) return address;
    this.#joinKept();
    return this.#split(order);
  }

  /** Takes a block out of the smallest free one that holds it; 0: there is none. */
  #split(order: number): number {
    for (let from = order; from <= this.#largestOrder; from++) {
      const [page] = this.#free[from] ?? [];
      if (page === undefined) continue;
      this.#free[from]?.delete(page);
      for (let half = from - 1; half >= order; half--) this.#free[half]?.add(page + (1 << half));
      return this.#addressOf(page);
    }
    return 0;
  }

  /** Frees a block and joins it with its buddy as long as that is free. */
  #join(page: number, order: number): void {
    for (; order < this.#largestOrder; order++) {
      if (!this.#free[order]?.delete(page ^ (1 << order))) break;
      page &= ~(1 << order);
    }
    this.#free[order]?.add(page);
  }

  #joinKept(): void {
    for (const [order, count] of this.#keptCounts.entries()) {
      for (let i = 0; i < count; i++) this.#join(this.#kept[order]?.[i] ?? 0, order);
    }
    this.#keptCounts.fill(0);
  }

  #addressOf(page: number): number {
    return this.#base + page * PAGE_SIZE;
  }

  #serve(): void {
    for (;;) {
      const first = this.#waiters[0];
      if (first === undefined) return;
      const address = this.#take(orderOf(first.lengthBytes));
      if (address === 0) return;
      this.#waiters.shift();
      first.grant(address);
    }
  }
}

export class Arena {
  #small: Pool;
  #usual: Pool;
  /** The same as the usual one where there is no room for another. */
  #largest: Pool;

  /**
   * @param base address of the first byte, page-aligned
   * @param lengthBytes size of the arena, a power of two from 64 KiB to 1 GiB
   */
  constructor(base: number, lengthBytes: number) {
    [this.#small, this.#usual, this.#largest] = parts(base, lengthBytes);
  }

  /** Goes to another place, in another size if need be. Every buffer must have come back. */
  moveTo(base: number, lengthBytes: number): void {
    if (!this.idle) throw new Error('an arena whose buffers are lent cannot move');
    [this.#small, this.#usual, this.#largest] = parts(base, lengthBytes);
  }

  /** Every buffer has come back; nobody waits for one either. */
  get idle(): boolean {
    return this.#small.idle && this.#usual.idle && this.#largest.idle;
  }

  /** Largest buffer that can be asked for, in bytes. */
  get largestBytes(): number {
    return this.#largest.largestBytes;
  }

  /** What large buffers can be together that are not among the largest, in bytes. */
  get usualBytes(): number {
    return this.#usual.largestBytes;
  }

  /** What small buffers can be together, in bytes. */
  get smallBytes(): number {
    return this.#small.largestBytes;
  }

  /** True when somebody waits. */
  get contended(): boolean {
    return this.#small.contended || this.#usual.contended || this.#largest.contended;
  }

  /** The address of a buffer of at least `lengthBytes`, or 0 when none is free or others wait. */
  allocate(lengthBytes: number): number {
    return this.#poolOf(lengthBytes).allocate(lengthBytes);
  }

  /** Calls `grant` with an address as soon as there is one, in the order of the calls. */
  whenFree(lengthBytes: number, grant: (address: number) => void): void {
    this.#poolOf(lengthBytes).whenFree(lengthBytes, grant);
  }

  /** Gives back a buffer with the length it was asked for. */
  release(address: number, lengthBytes: number): void {
    this.#poolOf(lengthBytes).release(address, lengthBytes);
  }

  #poolOf(lengthBytes: number): Pool {
    if (isSmall(lengthBytes)) return this.#small;
    return isUsual(lengthBytes) ? this.#usual : this.#largest;
  }
}

function parts(base: number, lengthBytes: number): [small: Pool, usual: Pool, largest: Pool] {
  if (base % PAGE_SIZE !== 0 || !isArenaSize(lengthBytes)) {
    const found = `${lengthBytes} bytes at ${base}`;
    throw new RangeError(`an arena needs a page-aligned power of two, not ${found}`);
  }
  const half = lengthBytes / 2;
  const small = new Pool(base, half);
  if (lengthBytes < PARTED_ARENA_BYTES) {
    const large = new Pool(base + half, half);
    return [small, large, large];
  }
  const quarter = half / 2;
  return [small, new Pool(base + half, quarter), new Pool(base + half + quarter, quarter)];
}

/** A power of two from 64 KiB to 1 GiB. */
export function isArenaSize(bytes: number): boolean {
  const isInRange = bytes >= SMALLEST_ARENA_BYTES && bytes <= LARGEST_ARENA_BYTES;
  return isInRange && Number.isInteger(Math.log2(bytes));
}

/** True for buffers of the half that large ones cannot take. */
export function isSmall(lengthBytes: number): boolean {
  return lengthBytes <= SMALL_BUFFER_BYTES;
}

/** True for buffers that are not among the largest. */
export function isUsual(lengthBytes: number): boolean {
  return lengthBytes <= USUAL_BUFFER_BYTES;
}
