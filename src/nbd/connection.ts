/**
 * One client in transmission: bytes in, requests to the device, replies out.
 * NBD proto, "Transmission phase".
 *
 *     ┌──────────────────────────────────────────────────────┐
 *   header ──▶ buffer ──▶ payload ──▶ submit ─────────────────┤
 *     │ │ └──────┴───────────────────▶  │                    │
 *     │ └────▶ drain ─────────────────────────────────────────┘
 *     └──────▶ over
 *
 * header    #header: a complete header is checked; a refusal is answered here
 * buffer    #claim: waits for its share of the arena
 * payload   #receive: the data of a WRITE comes in
 * submit    #submit: waits until the device takes it
 * drain     #drain: the data of a refused WRITE goes by
 * over      DISC came, or something that is not NBD: nothing is parsed any more
 *
 * C1  A request is submitted when all its bytes are here, or never: no partial WRITE.
 * C2  What was received completely is executed, whatever happens to the socket after it.
 * C3  FLUSH is submitted at once; what it covers is the device's business, for all connections.
 * C4  At most MAX_REQUESTS have no sent reply, and they hold their share of the arena; beyond that
 *     the socket is not read.
 */
import type { Device } from '../device.ts';
import { Answers } from './answers.ts';
import { ArenaShare } from './arena-share.ts';
import { MAX_POLLED_BURST } from './busy-poll.ts';
import { Dispatch } from './dispatch.ts';
import { GATHER_BYTES, MAX_DRAINED_BYTES, MAX_REQUESTS } from './limits.ts';
import { bufferBytesOf } from './operations.ts';
import {
  CMD_CACHE,
  CMD_DISC,
  CMD_FLUSH,
  CMD_WRITE,
  REQUEST_HEADER_SIZE,
  REQUEST_MAGIC,
} from './protocol.ts';
import { NO_SLOT, refusal, type Session } from './requests.ts';
import type { ByteSocket, SocketOwner } from './socket.ts';
import { Staging } from './staging.ts';
import type { CountedClient } from './stats/server-tally.ts';
import type { Tally } from './stats/tally.ts';
import type { NbdEndReason } from './stats/types.ts';
import type { Attended, Turn } from './turn.ts';

const STATE_HEADER = 0;
const STATE_BUFFER = 1;
const STATE_PAYLOAD = 2;
const STATE_SUBMIT = 3;
const STATE_DRAIN = 4;
const STATE_OVER = 5;

const WORD = 2 ** 32;

/** What a connection is made of. */
export interface ConnectionParts {
  readonly device: Device;
  readonly turn: Turn;
  readonly socket: ByteSocket;
  readonly session: Session;
  readonly tally: Tally;
  /** Bytes that came behind the negotiation. */
  readonly early: Uint8Array;
  /** Called once, when every request is executed and nothing of the device is held any more. */
  readonly finished: () => void;
}

export class Connection implements SocketOwner, Attended, CountedClient {
  woken = false;
  readonly tally: Tally;
  /** Why it ends, when that is known. */
  ending: NbdEndReason | undefined;
  receivedBytes = 0;
  readonly #device: Device;
  readonly #turn: Turn;
  readonly #socket: ByteSocket;
  readonly #session: Session;
  readonly #finished: () => void;
  readonly #answers: Answers;
  readonly #dispatch: Dispatch;
  readonly #staging = new Staging();
  readonly #share: ArenaShare;
  #state = STATE_HEADER;
  /** The request between its header and its submission. */
  #slot = NO_SLOT;
  /** The part of a payload that has not come yet: where it goes, or how much goes by. */
  #payloadAt = 0;
  #payloadLeft = 0;
  #drainError = 0;
  /** The last target was the arena itself. */
  #direct = false;
  /** Large WRITEs are coming: a small window leaves their data to the arena. */
  #narrow = false;
  #reading = true;
  /** No more bytes will come. */
  #ended = false;
  #closed = false;
  #done = false;
  readonly #wake = (): void => this.#turn.wake(this);

  constructor(parts: ConnectionParts) {
    const { device } = parts;
    this.#device = device;
    this.#turn = parts.turn;
    this.#socket = parts.socket;
    this.#session = parts.session;
    this.#finished = parts.finished;
    this.tally = parts.tally;
    const { structured } = parts.session;
    this.#answers = new Answers(device, parts.socket, structured, parts.tally, this.#wake);
    this.#dispatch = new Dispatch(device, this.#answers, this.#wake);
    this.#share = new ArenaShare(device.arena, this.#wake);
    this.#staging.preset(parts.early);
  }

  /** Every request of a small burst is answered, its reply with the kernel, and more is welcome. */
  get idle(): boolean {
    const { open, burst } = this.#answers;
    if (open > 0 || burst > MAX_POLLED_BURST) return false;
    return this.#state === STATE_HEADER && this.#wantsBytes();
  }

  /** In the line for a buffer of the arena. */
  get waiting(): boolean {
    return this.#share.waiting;
  }

  /** Holds memory until the client sends or reads. */
  get stalling(): boolean {
    const { heldBytes, sender } = this.#answers;
    return this.#state === STATE_PAYLOAD || (sender.blocked && heldBytes > 0);
  }

  /** Bytes of the arena that it holds. */
  get heldBytes(): number {
    return this.#answers.heldBytes;
  }

  /** Bytes that moved in either direction so far. */
  get movedBytes(): number {
    return this.receivedBytes + this.sentBytes;
  }

  get sentBytes(): number {
    return this.#answers.sender.sentBytes;
  }

  get inFlight(): number {
    return this.#answers.open;
  }

  /** Begins with the bytes that came early; false: do not read yet. */
  start(): boolean {
    this.#turn.run(this);
    return this.#readOn();
  }

  /** Closes at once; what was received completely is executed. */
  destroy(reason: NbdEndReason): void {
    this.ending ??= reason;
    this.#socket.destroy();
  }

  /** Reads nothing more, finishes what was received and closes. */
  shutdown(): void {
    this.ending ??= 'shutdown';
    this.#socket.pause();
    this.ended();
  }

  target(): Uint8Array {
    this.#direct = this.#state === STATE_PAYLOAD && this.#staging.length === 0;
    if (!this.#direct) return this.#staging.window(this.#narrow);
    return this.#device.bytes.subarray(this.#payloadAt, this.#payloadAt + this.#payloadLeft);
  }

  received(lengthBytes: number): boolean {
    if (this.#direct) this.#payloadAdvance(lengthBytes);
    else this.#staging.added(lengthBytes);
    return this.#took(lengthBytes);
  }

  /** `received` for bytes that came into somebody else's target. */
  copied(bytes: Uint8Array): boolean {
    this.#direct = false;
    this.#staging.preset(bytes);
    return this.#took(bytes.length);
  }

  ended(): void {
    this.#ended = true;
    this.#turn.run(this);
  }

  closed(): void {
    this.#closed = true;
    this.#answers.sender.giveUp();
    this.ended();
  }

  attend(): boolean {
    const { sender } = this.#answers;
    sender.flush();
    this.#advance();
    const submitted = this.#dispatch.takeSubmitted();
    // Refusals leave in the next round, together with what the kick completes.
    if (sender.replies.count > 0 && !sender.blocked) this.#turn.wake(this);
    if (this.#exhausted()) this.#finish();
    else if (!this.#reading && this.#wantsBytes()) {
      this.#reading = true;
      this.#socket.resume();
    }
    return submitted;
  }

  #took(lengthBytes: number): boolean {
    this.receivedBytes += lengthBytes;
    this.#turn.run(this);
    return this.#readOn();
  }

  #readOn(): boolean {
    this.#reading = this.#wantsBytes();
    return this.#reading;
  }

  /** Everything that came is consumed, and more is welcome (C4). */
  #wantsBytes(): boolean {
    if (this.#ended || this.#done) return false;
    if (this.#state === STATE_HEADER) return this.#staging.length < REQUEST_HEADER_SIZE;
    return this.#state === STATE_PAYLOAD || this.#state === STATE_DRAIN;
  }

  /** Parses and submits until bytes, memory or room are missing. */
  #advance(): void {
    this.#dispatch.proceed();
    while (this.#step());
    this.#staging.tuck();
  }

  #step(): boolean {
    switch (this.#state) {
      case STATE_HEADER:
        return this.#header();
      case STATE_BUFFER:
        return this.#claim();
      case STATE_PAYLOAD:
        return this.#receive();
      case STATE_SUBMIT:
        return this.#submit();
      case STATE_DRAIN:
        return this.#drain();
      default:
        return false;
    }
  }

  /** NBD proto, "Request message". */
  #header(): boolean {
    const { at, length: staged, view } = this.#staging;
    if (staged < REQUEST_HEADER_SIZE || this.#answers.open >= MAX_REQUESTS) return false;
    if (view.getUint32(at) !== REQUEST_MAGIC) return this.#drop();
    const flags = view.getUint16(at + 4);
    const type = view.getUint16(at + 6);
    if (type === CMD_DISC) return this.#over('disconnect');
    const offset = view.getUint32(at + 16) * WORD + view.getUint32(at + 20);
    const length = view.getUint32(at + 24);
    const table = this.#answers.table;
    const slot = this.#answers.begin();
    table.type[slot] = type;
    table.flags[slot] = flags;
    table.cookieHigh[slot] = view.getUint32(at + 8);
    table.cookieLow[slot] = view.getUint32(at + 12);
    table.offset[slot] = offset;
    table.length[slot] = length;
    this.#staging.consume(REQUEST_HEADER_SIZE);
    return this.#route(slot, type, length, refusal(this.#session, type, flags, offset, length));
  }

  /** Where a request goes from its header. */
  #route(slot: number, type: number, length: number, error: number): boolean {
    this.#narrow = error === 0 && type === CMD_WRITE && length >= GATHER_BYTES;
    if (error !== 0 && type === CMD_WRITE) return this.#refuseWrite(slot, length, error);
    const nothingToDo = type !== CMD_FLUSH && (length === 0 || this.#needsNoCache(type));
    if (error !== 0 || nothingToDo) {
      this.#answers.plain(slot, error);
      return true;
    }
    this.#slot = slot;
    this.#state = bufferBytesOf(type, length) > 0 ? STATE_BUFFER : STATE_SUBMIT;
    return true;
  }

  /** With O_DIRECT there is no page cache that a CACHE could fill. */
  #needsNoCache(type: number): boolean {
    return type === CMD_CACHE && this.#device.blockSizeBytes > 1;
  }

  /** The payload follows all the same; an absurd one is not waited for. */
  #refuseWrite(slot: number, length: number, error: number): boolean {
    if (length > MAX_DRAINED_BYTES) return this.#drop();
    this.#slot = slot;
    this.#payloadLeft = length;
    this.#drainError = error;
    this.#state = STATE_DRAIN;
    return true;
  }

  #claim(): boolean {
    const slot = this.#slot;
    const { table } = this.#answers;
    const bytes = bufferBytesOf(table.type[slot] ?? 0, table.length[slot] ?? 0);
    const { heldSmallBytes, heldLargeBytes } = this.#answers;
    const address = this.#share.take(bytes, heldSmallBytes, heldLargeBytes);
    if (address === 0) return false;
    this.#answers.hold(slot, address, bytes);
    this.#payloadAt = address;
    const isWrite = table.type[slot] === CMD_WRITE;
    this.#payloadLeft = isWrite ? bytes : 0;
    this.#state = isWrite ? STATE_PAYLOAD : STATE_SUBMIT;
    return true;
  }

  /** Takes what is staged of a payload; the rest goes straight into the arena. */
  #receive(): boolean {
    const { at, bytes } = this.#staging;
    const length = Math.min(this.#payloadLeft, this.#staging.length);
    if (length > 0) {
      this.#device.bytes.set(bytes.subarray(at, at + length), this.#payloadAt);
      this.#staging.consume(length);
      this.#payloadAdvance(length);
    }
    if (this.#payloadLeft > 0) return false;
    this.#state = STATE_SUBMIT;
    return true;
  }

  #payloadAdvance(lengthBytes: number): void {
    this.#payloadAt += lengthBytes;
    this.#payloadLeft -= lengthBytes;
  }

  #drain(): boolean {
    const length = Math.min(this.#payloadLeft, this.#staging.length);
    this.#staging.consume(length);
    this.#payloadLeft -= length;
    if (this.#payloadLeft > 0) return false;
    this.#state = STATE_HEADER;
    this.#answers.plain(this.#slot, this.#drainError);
    return true;
  }

  #submit(): boolean {
    if (!this.#dispatch.submit(this.#slot)) return false;
    this.#slot = NO_SLOT;
    this.#state = STATE_HEADER;
    return true;
  }

  /** DISC, or the end of it: what follows is not looked at. */
  #over(reason: NbdEndReason): boolean {
    this.ending ??= reason;
    this.#staging.clear();
    this.#state = STATE_OVER;
    return false;
  }

  /** What came is not NBD, or absurd: there is no way to find the next request. */
  #drop(): boolean {
    this.#socket.destroy();
    return this.#over('protocol');
  }

  /** Nothing is left to parse, execute or send. */
  #exhausted(): boolean {
    if (this.#done || !this.#dispatch.idle) return false;
    if (this.#state !== STATE_OVER && !(this.#ended && this.#starved())) return false;
    return this.#answers.sender.idle;
  }

  /** What is staged cannot become a request without more bytes. */
  #starved(): boolean {
    if (this.#state === STATE_HEADER) return this.#staging.length < REQUEST_HEADER_SIZE;
    return this.#state === STATE_PAYLOAD || this.#state === STATE_DRAIN;
  }

  #finish(): void {
    this.#done = true;
    // Nobody reads into it any more: the end, the close or `shutdown` came before.
    if (this.#state === STATE_PAYLOAD) this.#answers.release(this.#slot);
    this.#state = STATE_OVER;
    if (!this.#closed) this.#socket.end();
    this.#finished();
  }
}
