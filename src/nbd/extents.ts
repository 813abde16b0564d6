/**
 * Extents of a BLOCK_STATUS, written where their chunk goes.
 *
 *   compact    u32 length, u32 flags    big-endian, "NBD_REPLY_TYPE_BLOCK_STATUS"
 *   extended   u64 length, u64 flags    big-endian, "NBD_REPLY_TYPE_BLOCK_STATUS_EXT"
 *
 * X1  Neighbours with equal flags are one, and what lies past the request is cut off: so a compact
 *     length fits its u32.
 */
import { EXTENT_SIZE_32, EXTENT_SIZE_64 } from './protocol.ts';

const WORD = 2 ** 32;
const NO_VIEW: DataView = new DataView(new ArrayBuffer(0));

/** One list of extents after the other. */
export class ExtentWriter {
  /** Extents written. */
  count = 0;
  #view: DataView = NO_VIEW;
  #start = 0;
  #isWide = false;
  #limit = 0;
  #left = 0;
  #length = 0;
  #flags = -1;

  /**
   * @param start where the first extent goes; there is room for `limit`
   * @param isWide 64 bits each
   * @param requestBytes what the extents describe, at most
   */
  begin(view: DataView, start: number, isWide: boolean, limit: number, requestBytes: number): void {
    this.#view = view;
    this.#start = start;
    this.#isWide = isWide;
    this.#limit = limit;
    this.#left = requestBytes;
    this.#length = 0;
    this.#flags = -1;
    this.count = 0;
  }

  /** Bytes of the request that are not described yet. */
  get left(): number {
    return this.#left;
  }

  /** Adds what comes next; false: nothing more fits, or is needed. */
  add(lengthBytes: number, flags: number): boolean {
    const length = Math.min(lengthBytes, this.#left);
    if (length === 0) return this.#left > 0;
    const isNew = flags !== this.#flags;
    if (isNew && this.count === this.#limit) return false;
    if (isNew) {
      this.count++;
      this.#length = 0;
      this.#flags = flags;
    }
    this.#length += length;
    this.#left -= length;
    this.#put();
    return this.#left > 0;
  }

  #put(): void {
    const view = this.#view;
    if (!this.#isWide) {
      const at = this.#start + (this.count - 1) * EXTENT_SIZE_32;
      view.setUint32(at, this.#length);
      view.setUint32(at + 4, this.#flags);
      return;
    }
    const at = this.#start + (this.count - 1) * EXTENT_SIZE_64;
    view.setUint32(at, Math.floor(this.#length / WORD));
    view.setUint32(at + 4, this.#length % WORD);
    view.setUint32(at + 8, 0);
    view.setUint32(at + 12, this.#flags);
  }
}
