/**
 * Requests from their header to their sent reply: who holds which slot and which buffer, and how
 * each command is answered. NBD proto, "Simple replies", "Structured reply types".
 */
import { isSmall } from '../arena.ts';
import type { Device } from '../device.ts';
import { packExtents, WIRE_EXTENT_SIZE } from './extents.ts';
import { CMD_FLAG_REQ_ONE, CMD_READ, NBD_EIO } from './protocol.ts';
import { RequestTable } from './requests.ts';
import { Sender } from './sender.ts';
import type { ByteSocket } from './socket.ts';
import type { Tally } from './stats/tally.ts';

export class Answers {
  readonly table = new RequestTable();
  readonly sender: Sender;
  readonly #device: Device;
  readonly #tally: Tally;
  readonly #structured: boolean;
  #open = 0;
  #burst = 0;
  #heldSmallBytes = 0;
  #heldLargeBytes = 0;

  /**
   * @param structured structured replies were negotiated
   * @param writable called when a full socket takes replies again
   */
  constructor(
    device: Device,
    socket: ByteSocket,
    structured: boolean,
    tally: Tally,
    writable: () => void,
  ) {
    this.#device = device;
    this.#tally = tally;
    this.#structured = structured;
    this.sender = new Sender(socket, { settled: this.#settled, writable }, device);
  }

  /** Requests without a sent reply. */
  get open(): number {
    return this.#open;
  }

  /** Requests that came since there was none open. */
  get burst(): number {
    return this.#burst;
  }

  /** Bytes of the arena that they hold, whether read into, sent from or written to. */
  get heldBytes(): number {
    return this.#heldSmallBytes + this.#heldLargeBytes;
  }

  /** The part of them in small buffers. */
  get heldSmallBytes(): number {
    return this.#heldSmallBytes;
  }

  /** The part of them in large buffers. */
  get heldLargeBytes(): number {
    return this.#heldLargeBytes;
  }

  /** A slot for a new request, without a buffer; the caller saw that `open` leaves one. */
  begin(): number {
    const slot = this.table.take();
    this.table.address[slot] = 0;
    this.#tally.started(slot);
    this.#burst = this.#open === 0 ? 1 : this.#burst + 1;
    this.#open++;
    return slot;
  }

  /** The request owns a buffer of the arena now. */
  hold(slot: number, address: number, bufferBytes: number): void {
    this.table.address[slot] = address;
    this.table.bufferBytes[slot] = bufferBytes;
    this.#holds(bufferBytes, 1);
  }

  /** Gives back the buffer of a request, if it has one. */
  release(slot: number): void {
    const address = this.table.address[slot] ?? 0;
    if (address === 0) return;
    const bufferBytes = this.table.bufferBytes[slot] ?? 0;
    this.table.address[slot] = 0;
    this.#holds(bufferBytes, -1);
    this.#device.arena.release(address, bufferBytes);
  }

  /** Answers without content. With structured replies a READ has no simple reply, an error none. */
  plain(slot: number, error: number): void {
    const { replies } = this.sender;
    const { table } = this;
    const cookieHigh = table.cookieHigh[slot] ?? 0;
    const cookieLow = table.cookieLow[slot] ?? 0;
    if (this.#structured && error !== 0) replies.error(cookieHigh, cookieLow, error);
    else if (this.#structured && table.type[slot] === CMD_READ) replies.none(cookieHigh, cookieLow);
    else replies.simple(cookieHigh, cookieLow, error);
    this.release(slot);
    this.#answered(slot, error);
  }

  /** Answers a READ with what its buffer holds. One chunk, so DF asks for nothing more. */
  data(slot: number): void {
    const { replies } = this.sender;
    const { table } = this;
    const cookieHigh = table.cookieHigh[slot] ?? 0;
    const cookieLow = table.cookieLow[slot] ?? 0;
    const length = table.length[slot] ?? 0;
    if (this.#structured) {
      replies.offsetData(cookieHigh, cookieLow, table.offset[slot] ?? 0, length);
    } else {
      replies.simple(cookieHigh, cookieLow, 0);
    }
    this.#content(slot, length);
  }

  /** Answers a BLOCK_STATUS with the table that its buffer holds. */
  extents(slot: number, extents: number): void {
    const { table } = this;
    const one = ((table.flags[slot] ?? 0) & CMD_FLAG_REQ_ONE) !== 0;
    const address = table.address[slot] ?? 0;
    const { bytes } = this.#device;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const packed = packExtents(view, address, extents, table.length[slot] ?? 0, one);
    // A device that describes nothing leaves nothing that could be said.
    if (packed === 0) return this.plain(slot, NBD_EIO);
    const length = packed * WIRE_EXTENT_SIZE;
    const { replies } = this.sender;
    replies.blockStatus(table.cookieHigh[slot] ?? 0, table.cookieLow[slot] ?? 0, length);
    this.#content(slot, length);
  }

  /** Puts data behind the header that was just written, and frees the slot. */
  #content(slot: number, lengthBytes: number): void {
    const bufferBytes = this.table.bufferBytes[slot] ?? 0;
    const address = this.table.address[slot] ?? 0;
    const copied = this.sender.replies.data(address, lengthBytes, bufferBytes);
    if (copied) this.#holds(bufferBytes, -1);
    this.#answered(slot, 0);
  }

  #answered(slot: number, error: number): void {
    this.#tally.answered(this.table, slot, error);
    this.table.give(slot);
  }

  #holds(bufferBytes: number, sign: 1 | -1): void {
    if (isSmall(bufferBytes)) this.#heldSmallBytes += sign * bufferBytes;
    else this.#heldLargeBytes += sign * bufferBytes;
  }

  readonly #settled = (replies: number, smallBytes: number, largeBytes: number): void => {
    this.#open -= replies;
    this.#heldSmallBytes -= smallBytes;
    this.#heldLargeBytes -= largeBytes;
  };
}
