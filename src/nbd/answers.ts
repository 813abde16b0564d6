/**
 * Requests from their header to their sent reply: who holds which slot and which buffer, and how
 * each command is answered. NBD proto, "Simple replies", "Structured reply types".
 */
import { isSmall } from '../arena.ts';
import type { Device } from '../device.ts';
import { STATUS_IO_ERROR } from '../abi/request.ts';
import { commandWords } from './commands.ts';
import { asksDevice, contextId, describe, type MetaContext } from './contexts.ts';
import { MAX_EXTENTS } from './limits.ts';
import { CMD_FLAG_REQ_ONE, CMD_READ } from './protocol.ts';
import { errorOfRefusal, isPastEnd, refusalText } from './refusals.ts';
import { RequestTable, type Session } from './requests.ts';
import { Sender } from './sender.ts';
import type { ByteSocket } from './socket.ts';
import { failureText, replyError } from './status.ts';
import type { Tally } from './stats/tally.ts';

export class Answers {
  readonly table = new RequestTable();
  readonly sender: Sender;
  readonly #device: Device;
  readonly #session: Session;
  readonly #tally: Tally;
  #open = 0;
  #burst = 0;
  #heldSmallBytes = 0;
  #heldLargeBytes = 0;

  /**
   * @param writable called when a full socket takes replies again
   */
  constructor(
    device: Device,
    socket: ByteSocket,
    session: Session,
    tally: Tally,
    writable: () => void,
  ) {
    this.#device = device;
    this.#session = session;
    this.#tally = tally;
    this.sender = new Sender(socket, { settled: this.#settled, writable }, device, session);
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

  /** Success without content. With structured replies a READ has no simple reply. */
  done(slot: number): void {
    const { structured, extended } = this.#session;
    const { replies } = this.sender;
    const { table } = this;
    if (extended || (structured && table.type[slot] === CMD_READ)) replies.none(table, slot);
    else replies.simple(table, slot, 0);
    this.#end(slot, 0);
  }

  /** Answers a request that never reaches the device. */
  refuse(slot: number, reason: number): void {
    const { table } = this;
    const session = this.#session;
    const error = errorOfRefusal(reason);
    if (!session.structured) return this.#simpleError(slot, error);
    const text = refusalText(reason, session, table, slot);
    const length = table.length[slot] ?? 0;
    // Where the first byte is past the end already, the request says it.
    const isWithin =
      isPastEnd(reason) && length > 0 && (table.offset[slot] ?? 0) <= session.sizeBytes;
    this.sender.replies.error(table, slot, error, text, isWithin ? session.sizeBytes : -1);
    this.#end(slot, error);
  }

  /** Answers a request that the device could not do. */
  fail(slot: number, status: number, errno: number): void {
    const { table } = this;
    const type = table.type[slot] ?? 0;
    const error = replyError(type, status);
    if (error === 0) return this.done(slot);
    if (!this.#session.structured) return this.#simpleError(slot, error);
    const text = failureText(commandWords(type), status, errno);
    this.sender.replies.error(table, slot, error, text);
    this.#end(slot, error);
  }

  /** Answers a READ with what its buffer holds. One chunk, so DF asks for nothing more. */
  data(slot: number): void {
    const { replies } = this.sender;
    const { table } = this;
    const length = table.length[slot] ?? 0;
    if (this.#session.structured) replies.offsetData(table, slot, length);
    else replies.simple(table, slot, 0);
    this.#content(slot, length);
  }

  /** The device is to be asked for an answer to this BLOCK_STATUS. */
  asksDevice(slot: number): boolean {
    return asksDevice(this.#session.contexts, this.table.selection[slot] ?? 0);
  }

  /**
   * Answers a BLOCK_STATUS, one chunk for each context.
   * @param entries of the table that its buffer holds, if the device was asked
   */
  extents(slot: number, entries: number): void {
    const { table } = this;
    // A device that describes nothing leaves nothing that could be said.
    if (entries === 0 && this.asksDevice(slot)) return this.fail(slot, STATUS_IO_ERROR, 0);
    const { replies } = this.sender;
    const { contexts } = this.#session;
    const most = ((table.flags[slot] ?? 0) & CMD_FLAG_REQ_ONE) === 0 ? MAX_EXTENTS : 1;
    const { bytes } = this.#device;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const address = table.address[slot] ?? 0;
    const offset = table.offset[slot] ?? 0;
    const selection = table.selection[slot] ?? 0;
    for (let left = selection, chunks = ones(selection); left !== 0; chunks--) {
      const place = 31 - Math.clz32(left & -left);
      left = (left & (left - 1)) >>> 0;
      const writer = replies.beginStatus(table.length[slot] ?? 0, chunks, most);
      describe(contexts[place] as MetaContext, view, address, entries, offset, writer);
      replies.status(table, slot, contextId(place), left === 0);
    }
    this.#end(slot, 0);
  }

  #simpleError(slot: number, error: number): void {
    this.sender.replies.simple(this.table, slot, error);
    this.#end(slot, error);
  }

  /** Everything is said. */
  #end(slot: number, error: number): void {
    this.release(slot);
    this.#answered(slot, error);
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

/** Bits that are set. */
function ones(word: number): number {
  let count = 0;
  for (let left = word; left !== 0; left &= left - 1) count++;
  return count;
}
