/**
 * A memory of our own for commands whose bytes change on their way: equal slots, lent out first
 * come, first served, so that what waits costs no memory.
 */
const PAGE_BYTES = 65536;

/** A fixed number of slots. A slot's number can be the id of the command that uses it. */
export class Scratch {
  /** For the backend that fills the slots. It never grows. */
  readonly memory: WebAssembly.Memory;
  readonly slots: number;
  readonly slotBytes: number;
  readonly #free: number[];
  readonly #waiting: ((slot: number) => void)[] = [];

  constructor(slots: number, slotBytes: number) {
    const pages = Math.ceil((slots * slotBytes) / PAGE_BYTES);
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    this.slots = slots;
    this.slotBytes = slotBytes;
    this.#free = Array.from({ length: slots }, (_, slot) => slot);
  }

  addressOf(slot: number): number {
    return slot * this.slotBytes;
  }

  /** The first bytes of the slot. */
  bytesOf(slot: number, lengthBytes: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, this.addressOf(slot), lengthBytes);
  }

  /** Calls `start` with a slot, now or when one is given back. */
  take(start: (slot: number) => void): void {
    const slot = this.#free.pop();
    if (slot === undefined) this.#waiting.push(start);
    else start(slot);
  }

  /** Hands the slot to who has waited longest. */
  give(slot: number): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(slot);
    else next(slot);
  }
}

/** Copies `bytes` into the views, which have room for all of them. */
export function scatter(bytes: Uint8Array, views: readonly Uint8Array[]): void {
  let done = 0;
  for (const view of views) {
    const part = bytes.subarray(done, done + view.length);
    view.set(part);
    done += part.length;
  }
}

/** Copies out of the views until `target` is full. */
export function gather(views: readonly Uint8Array[], target: Uint8Array): void {
  let done = 0;
  for (const view of views) {
    const part = view.subarray(0, target.length - done);
    target.set(part, done);
    done += part.length;
  }
}
