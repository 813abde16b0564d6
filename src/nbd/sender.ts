/**
 * The way out of a connection: one system call for all replies that are ready; what the kernel does
 * not take goes through libuv while the next replies collect.
 *
 *   filling ──flush──▶ sent
 *      │ the socket is full
 *      └─────────────▶ sending ──written──▶ sent
 *
 * S1  Replies leave in the order in which they were collected.
 * S2  A reply counts until the kernel has all of it, or the client is gone: a client that does not
 *     read is not served further than its limits.
 */
import type { Device } from '../device.ts';
import { Replies } from './replies.ts';
import type { Session } from './requests.ts';
import type { ByteSocket } from './socket.ts';

/** Who is told about replies that are done. */
export interface ReplyOwner {
  /** `replies` were sent or given up, and these bytes of the arena's buffers released. */
  settled(replies: number, smallBytes: number, largeBytes: number): void;
  /** The socket takes replies again. */
  writable(): void;
}

export class Sender {
  readonly #socket: ByteSocket;
  readonly #owner: ReplyOwner;
  readonly #device: Device;
  readonly #session: Session;
  #filling: Replies;
  #sending: Replies | undefined;
  #spare: Replies | undefined;
  #deaf = false;
  #sentBytes = 0;
  readonly #written = (): void => {
    if (this.#sending === undefined) return;
    this.#spare = this.#sending;
    this.#sending = undefined;
    this.#settle(this.#spare);
    this.#owner.writable();
  };

  constructor(socket: ByteSocket, owner: ReplyOwner, device: Device, session: Session) {
    this.#socket = socket;
    this.#owner = owner;
    this.#device = device;
    this.#session = session;
    this.#filling = new Replies(device, session);
  }

  /** Where the next reply goes. */
  get replies(): Replies {
    return this.#filling;
  }

  /** Nothing waits to be sent. */
  get idle(): boolean {
    return this.#sending === undefined && this.#filling.count === 0;
  }

  /** The kernel is full; `writable` will come. */
  get blocked(): boolean {
    return this.#sending !== undefined;
  }

  /** Nobody is there any more to get a reply. */
  get deaf(): boolean {
    return this.#deaf;
  }

  /** Bytes that the kernel has taken. */
  get sentBytes(): number {
    return this.#sentBytes - this.#socket.unsentBytes;
  }

  /** Sends what is there, as far as the kernel takes it. */
  flush(): void {
    const replies = this.#filling;
    if (this.#sending !== undefined || replies.count === 0) return;
    const length = replies.lengthBytes;
    const sent = this.#deaf ? length : this.#write(replies, length);
    if (sent < 0) this.#deaf = true;
    if (!this.#deaf) this.#sentBytes += length;
    if (sent === length || this.#deaf) return this.#settle(replies);
    this.#sending = replies;
    this.#filling = this.#spare ?? new Replies(this.#device, this.#session);
    this.#spare = undefined;
    this.#socket.writeLater(replies.pieces(sent), this.#written);
  }

  /** The client is gone: replies are thrown away from now on. */
  giveUp(): void {
    this.#deaf = true;
    const sending = this.#sending;
    this.#sending = undefined;
    if (sending !== undefined) this.#settle(sending);
    this.flush();
  }

  #write(replies: Replies, length: number): number {
    const whole = replies.contiguous;
    return whole === undefined
      ? this.#socket.writevNow(replies.pieces(0))
      : this.#socket.writeNow(whole, length);
  }

  #settle(replies: Replies): void {
    const { count, heldSmallBytes, heldLargeBytes } = replies;
    replies.clear();
    this.#owner.settled(count, heldSmallBytes, heldLargeBytes);
  }
}
