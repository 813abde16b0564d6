/**
 * The data arena: page-aligned transfer buffers in the engine's memory, handed out by a buddy
 * allocator. Its size is fixed when the disk is opened; who finds it full waits in line, so memory
 * is bounded whatever clients ask for.
 */

/** Smallest buffer, and the alignment of all: a page, so that O_DIRECT needs no copy. */
export const PAGE_SIZE = 4096;

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

export class Arena {
  readonly #base: number;
  readonly #largestOrder: number;
  /** Free blocks by order, as page numbers, joined with their buddies. */
  readonly #free: Set<number>[] = [];
  /** Kept blocks by order, as page numbers; the last freed is the first reused: it is warm. */
  readonly #kept: Uint32Array[] = [];
  readonly #keptCounts: Uint32Array;
  readonly #waiters: Waiter[] = [];
  readonly #pages: number;

  /**
   * @param base address of the first byte, page-aligned
   * @param lengthBytes size of the arena, a power of two of at least a page
   */
  constructor(base: number, lengthBytes: number) {
    if (
      base % PAGE_SIZE !== 0 ||
      lengthBytes < PAGE_SIZE ||
      (lengthBytes & (lengthBytes - 1)) !== 0
    ) {
      throw new RangeError(
        `an arena needs a page-aligned power of two, not ${lengthBytes} bytes at ${base}`,
      );
    }
    this.#base = base;
    this.#pages = lengthBytes >>> PAGE_BITS;
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
    return this.#pages << PAGE_BITS;
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

  /** Takes a waiting `grant` out of the line; true when it was in it. */
  cancel(grant: (address: number) => void): boolean {
    const index = this.#waiters.findIndex((waiter) => waiter.grant === grant);
    if (index < 0) return false;
    this.#waiters.splice(index, 1);
    this.#serve();
    return true;
  }

  /** Gives back a buffer with the length it was asked for. */
  release(address: number, lengthBytes: number): void {
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
