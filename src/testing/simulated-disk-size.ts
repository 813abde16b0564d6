/**
 * The size of a simulated disk: what is now, what is stable, and what a power cut may leave.
 *
 * Z1 An extend changes the size when it is answered; from its beginning on a power cut may leave
 *    it. It is whole blocks, and never less than before.
 * Z2 A sync that succeeds makes stable the size that the disk had when it began; a stable write the
 *    size that the disk has when it is answered.
 * Z3 A sync that fails makes nothing stable; a later one may.
 */

/** See the head of the file. Sizes are bytes; ids are those of commands. */
export class DiskSize {
  #now: number;
  #stable: number;
  /** Sizes that it has had since it had the stable one. */
  #past: number[] = [];
  #extends = new Map<number, number>();
  readonly #syncs = new Map<number, number>();

  readonly #blockBytes: number;

  constructor(sizeBytes: number, blockBytes: number) {
    this.#blockBytes = blockBytes;
    this.#now = sizeBytes;
    this.#stable = sizeBytes;
  }

  /** What reads see. */
  get now(): number {
    return this.#now;
  }

  beginExtend(id: number, sizeBytes: number): void {
    this.#extends.set(id, Math.ceil(sizeBytes / this.#blockBytes) * this.#blockBytes);
  }

  endExtend(id: number, succeeded: boolean): void {
    const sizeBytes = this.#extends.get(id) ?? 0;
    this.#extends.delete(id);
    if (!succeeded || sizeBytes <= this.#now) return;
    this.#now = sizeBytes;
    this.#past.push(sizeBytes);
  }

  beginSync(id: number): void {
    this.#syncs.set(id, this.#now);
  }

  endSync(id: number, succeeded: boolean): void {
    if (succeeded) this.#settle(this.#syncs.get(id) ?? 0);
    this.#syncs.delete(id);
  }

  /** A stable write was answered. */
  settle(): void {
    this.#settle(this.#now);
  }

  /** The sizes that a power cut may leave, the stable one first, then from small to large. */
  survivors(): [stable: number, ...others: number[]] {
    const larger = [...this.#past, ...this.#extends.values()].filter((size) => size > this.#stable);
    return [this.#stable, ...[...new Set(larger)].sort((a, b) => a - b)];
  }

  /** The process is killed: what is in flight has happened or not; the rest is as it was. */
  killed(happens: () => boolean): DiskSize {
    const next = new DiskSize(this.#now, this.#blockBytes);
    next.#stable = this.#stable;
    next.#past = [...this.#past];
    next.#extends = new Map(this.#extends);
    for (const id of this.#extends.keys()) next.endExtend(id, happens());
    return next;
  }

  #settle(sizeBytes: number): void {
    this.#stable = Math.max(this.#stable, sizeBytes);
    this.#past = this.#past.filter((size) => size > this.#stable);
  }
}
