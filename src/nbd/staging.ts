/**
 * Where requests arrive: a window that libuv reads into, with room in front of it.
 *
 *   | headroom      | window                           |
 *         | partial | next bytes ...
 *         at        WINDOW_START             end
 *
 * The rest of a window that is shorter than a header is moved in front of the window, so the window
 * never moves and needs no new view for each read.
 */
import { HANDSHAKE_WINDOW_BYTES, WINDOW_BYTES } from './limits.ts';
import { EXTENDED_REQUEST_SIZE } from './protocol.ts';

/** Room for a partial header, compact or extended. */
const WINDOW_START = EXTENDED_REQUEST_SIZE;

export class Staging {
  /** All staged bytes, to be read at `at`. */
  readonly bytes = new Uint8Array(WINDOW_START + WINDOW_BYTES);
  readonly view = new DataView(this.bytes.buffer);
  readonly #wide = this.bytes.subarray(WINDOW_START);
  readonly #narrow = this.#wide.subarray(0, HANDSHAKE_WINDOW_BYTES);
  readonly #headerBytes: number;
  #at = WINDOW_START;
  #end = WINDOW_START;

  /** @param headerBytes of a request */
  constructor(headerBytes: number) {
    this.#headerBytes = headerBytes;
  }

  /** Index of the first byte that was not consumed. */
  get at(): number {
    return this.#at;
  }

  /** Bytes that were not consumed. */
  get length(): number {
    return this.#end - this.#at;
  }

  /** Where the next bytes go; only to be filled when less than a header is left. */
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

  /** Moves less than a header in front of the window. */
  tuck(): void {
    const left = this.#end - this.#at;
    if (left >= this.#headerBytes) return;
    if (left > 0) this.bytes.copyWithin(WINDOW_START - left, this.#at, this.#end);
    this.#at = WINDOW_START - left;
    this.#end = WINDOW_START;
  }
}
