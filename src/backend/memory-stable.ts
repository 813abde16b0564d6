/**
 * The two images of a MemoryBackend and what moves bytes from one to the other.
 *
 * A sync takes a copy of the pages that were dirty when it was called (its cover) and puts them
 * into the stable image when it is answered. Between the two, newer bytes may become stable by
 * another way; the copy must not undo them:
 *
 * S1 A stable write goes into the copies of the syncs under way, too.
 * S2 When a sync succeeds, the copies of syncs that were called before it are dropped: its own
 *    are newer and cover all that theirs did.
 * S3 The stable image has the size that the disk had when the newest such sync was called, or when
 *    the newest stable write was answered.
 */
const PAGE = 4096;

/** A sync under way: the pages as they were when it was called, and each page's age then. */
export interface SyncCover {
  readonly order: number;
  readonly pages: Map<number, Uint8Array>;
  readonly ages: ReadonlyMap<number, number>;
  readonly sizeBytes: number;
}

/** A volatile and a stable image, all zeroes and of the same size at first. */
export class StableImage {
  volatile: Uint8Array;
  stable: Uint8Array;
  /** Page number -> when it was last written. */
  #dirty = new Map<number, number>();
  readonly #covers = new Set<SyncCover>();
  #clock = 0;

  constructor(sizeBytes: number) {
    this.volatile = new Uint8Array(sizeBytes);
    this.stable = new Uint8Array(sizeBytes);
  }

  /** The range of `volatile` has new bytes; when `stable`, they survive a power cut. */
  changed(offset: number, length: number, stable: boolean): void {
    if (length === 0) return;
    if (stable) {
      this.#changedStable(offset, length);
      return;
    }
    this.#clock++;
    const last = Math.floor((offset + length - 1) / PAGE);
    for (let page = Math.floor(offset / PAGE); page <= last; page++) {
      this.#dirty.set(page, this.#clock);
    }
  }

  /** Notes what a sync that is called now will make stable. */
  beginSync(): SyncCover {
    const pages = new Map<number, Uint8Array>();
    for (const page of this.#dirty.keys()) {
      pages.set(page, this.volatile.slice(page * PAGE, (page + 1) * PAGE));
    }
    const sizeBytes = this.volatile.length;
    const cover = { order: this.#clock++, pages, ages: new Map(this.#dirty), sizeBytes };
    this.#covers.add(cover);
    return cover;
  }

  /** The sync has ended. Either way its pages are clean now, unless written again since. */
  endSync(cover: SyncCover, succeeded: boolean): void {
    this.#covers.delete(cover);
    for (const [page, age] of cover.ages) {
      if (this.#dirty.get(page) === age) this.#dirty.delete(page);
    }
    if (!succeeded) return;
    this.#growStable(cover.sizeBytes);
    for (const [page, bytes] of cover.pages) this.stable.set(bytes, page * PAGE);
    for (const other of this.#covers) if (other.order < cover.order) other.pages.clear();
  }

  /** Makes the volatile image longer. */
  extend(sizeBytes: number): void {
    this.volatile = resized(this.volatile, sizeBytes);
  }

  /** Cuts or extends both; no sync is under way. */
  resize(sizeBytes: number): void {
    for (const page of this.#dirty.keys()) if (page * PAGE >= sizeBytes) this.#dirty.delete(page);
    this.volatile = resized(this.volatile, sizeBytes);
    this.stable = resized(this.stable, sizeBytes);
  }

  /** Back to what is stable. */
  cutPower(): void {
    this.volatile = this.volatile.subarray(0, this.stable.length);
    this.volatile.set(this.stable);
    this.#dirty = new Map();
    this.#covers.clear();
  }

  #growStable(sizeBytes: number): void {
    if (sizeBytes > this.stable.length) this.stable = resized(this.stable, sizeBytes);
  }

  #changedStable(offset: number, length: number): void {
    const bytes = this.volatile.subarray(offset, offset + length);
    this.#growStable(this.volatile.length);
    this.stable.set(bytes, offset);
    for (const { pages } of this.#covers) {
      for (const [page, copy] of pages) overlay(copy, page * PAGE, bytes, offset);
    }
  }
}

function resized(bytes: Uint8Array, sizeBytes: number): Uint8Array {
  const other = new Uint8Array(sizeBytes);
  other.set(bytes.subarray(0, sizeBytes));
  return other;
}

/** Copies the part of `bytes` (at `offset`) that lies in `copy` (at `start`). */
function overlay(copy: Uint8Array, start: number, bytes: Uint8Array, offset: number): void {
  const from = Math.max(start, offset);
  const to = Math.min(start + copy.length, offset + bytes.length);
  if (from < to) copy.set(bytes.subarray(from - offset, to - offset), from - start);
}
