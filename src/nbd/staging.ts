/**
 * Where requests arrive: a window that libuv reads into, with room in front of it.
 *
 *   | headroom      | window                           |
 *         | partial | next bytes ...
 *         at        WINDOW_START             end
 *
 * What is not enough yet, of a header or of a large WRITE's data, is moved in front of the window,
 * so the window never moves and needs no new view for each read.
 */
import { FIRST_BYTES, WINDOW_BYTES } from './limits.ts';
import { EXTENDED_REQUEST_SIZE } from './protocol.ts';

/** Room for less than the first bytes of a WRITE, which are more than a header. */
const WINDOW_START = FIRST_BYTES;
/** A header of either kind with the first bytes behind it. */
const NARROW_BYTES = EXTENDED_REQUEST_SIZE + FIRST_BYTES;

export class Staging {
  /** All staged bytes, to be read at `at`. */
  readonly bytes = new Uint8Array(WINDOW_START + WINDOW_BYTES);
  readonly view = new DataView(this.bytes.buffer);
  readonly #wide = this.bytes.subarray(WINDOW_START);
  readonly #narrow = this.#wide.subarray(0, NARROW_BYTES);
  #at = WINDOW_START;
  #end = WINDOW_START;

  /** Index of the first byte that was not consumed. */
  get at(): number {
    return this.#at;
  }

  /** Bytes that were not consumed. */
  get length(): number {
    return this.#end - this.#at;
  }

  /** Where the next bytes go; only to be filled when what is left has been tucked. */
  window(narrow: boolean): Uint8Array {
    return narrow ? this.#narrow : this.#wide;
  }

  /** `lengthBytes` were put at the start of the window. */
  added(lengthBytes: number): void {
    this.#end = WINDOW_START + lengthBytes;
  }

  /** Takes bytes that came before there was a window. */
  preset(bytes: Uint8Array): void {
    this.#wide.set(bytes);
    this.added(bytes.length);
  }

  /** `lengthBytes` are done with. */
  consume(lengthBytes: number): void {
    this.#at += lengthBytes;
  }

  /** Everything is done with. */
  clear(): void {
    this.#at = this.#end = WINDOW_START;
  }

  /** Moves what is left in front of the window, unless it is so much that nothing is waited for. */
  tuck(): void {
    const left = this.#end - this.#at;
    if (this.#end === WINDOW_START || left > WINDOW_START) return;
    if (left > 0) this.bytes.copyWithin(WINDOW_START - left, this.#at, this.#end);
    this.#at = WINDOW_START - left;
    this.#end = WINDOW_START;
  }
}
