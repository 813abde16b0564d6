/**
 * One client in transmission: bytes in, requests to the device, replies out.
 * NBD proto, "Transmission phase".
 *
 *     ┌──────────────────────────────────────────┐
 *   header ──▶ intake ──▶ submit ────────────────┤
 *     │ │ │ └───────────▶  │                     │
 *     │ │ └──▶ ids ──▶ intake, submit or header ─┤
 *     │ └────▶ drain ────────────────────────────┘
 *     └──────▶ over
 *
 * header    #header: a complete header is checked; a refusal is answered here
 * intake    its buffer, and the data of a WRITE (intake.ts)
 * submit    #submit: waits until the device takes it
 * ids       #ids: the payload of a BLOCK_STATUS comes in
 * drain     #drain: the payload of what was refused goes by
 * over      DISC came, or something that is not NBD: nothing is parsed any more
 *
 * C1  A request is submitted when all its bytes are here, or never: no partial WRITE.
 * C2  What was received completely and changes the disk is executed, whatever happens to the socket
 *     after it; what only asks is not, when nobody is there to hear.
 * C3  FLUSH is submitted at once; what it covers is the device's business, for all connections.
 * C4  At most MAX_REQUESTS have no sent reply, and they hold their share of the arena; beyond that
 *     the socket is not read.
 */
import type { Device } from '../device.ts';
import { Answers } from './answers.ts';
import { MAX_POLLED_BURST } from './busy-poll.ts';
import { Dispatch } from './dispatch.ts';
import { Incoming } from './incoming.ts';
import { Intake } from './intake.ts';
import { GATHER_BYTES, MAX_REQUESTS } from './limits.ts';
import { bufferBytesOf, changesDisk } from './operations.ts';
import { CMD_BLOCK_STATUS, CMD_CACHE, CMD_DISC, CMD_FLUSH, CMD_WRITE } from './protocol.ts';
import { ALLOWED } from './refusals.ts';
import { headerOf, isAbsurd, NO_SLOT, payloadBytes, refusal } from './requests.ts';
import type { HeaderForm, Session } from './requests.ts';
import type { Reception } from './reception.ts';
import type { ByteSocket, SocketOwner } from './socket.ts';
import type { Staging } from './staging.ts';
import { StatusPayload } from './status-payload.ts';
import type { CountedClient } from './stats/server-tally.ts';
import type { Tally } from './stats/tally.ts';
import type { NbdEndReason } from './stats/types.ts';
import type { Attended, Turn } from './turn.ts';

const STATE_HEADER = 0;
const STATE_INTAKE = 1;
const STATE_SUBMIT = 2;
const STATE_DRAIN = 3;
const STATE_IDS = 4;
const STATE_OVER = 5;

/** What a connection is made of. */
export interface ConnectionParts {
  readonly device: Device;
  readonly turn: Turn;
  readonly reception: Reception;
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
  readonly #headerForm: HeaderForm;
  readonly #incoming: Incoming;
  readonly #staging: Staging;
  readonly #statusPayload = new StatusPayload();
  readonly #intake: Intake;
  #state = STATE_HEADER;
  /** The request between its header and its submission. */
  #slot = NO_SLOT;
  #drainReason = ALLOWED;
  #reading = true;
  /** No more bytes will come. */
  #ended = false;
  #closed = false;
  #done = false;
  readonly #wake = (): void => this.#turn.wake(this);

  constructor(parts: ConnectionParts) {
    const { device, session } = parts;
    this.#device = device;
    this.#turn = parts.turn;
    this.#socket = parts.socket;
    this.#session = session;
    this.#headerForm = headerOf(session);
    this.#incoming = new Incoming(device);
    this.#staging = this.#incoming.staging;
    this.#finished = parts.finished;
    this.tally = parts.tally;
    this.#answers = new Answers(device, parts.socket, session, parts.tally, this.#wake);
    this.#dispatch = new Dispatch(device, this.#answers, this.#wake);
    const { reception } = parts;
    this.#intake = new Intake(device, reception, this.#answers, this.#incoming, this.#wake);
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
    return this.#intake.waiting;
  }

  /** Holds memory until the client sends or reads. */
  get stalling(): boolean {
    const { heldBytes, sender } = this.#answers;
    return this.#intake.stalling || (sender.blocked && heldBytes > 0);
  }

  /** Nothing is at the device or waits for it: the next move is the client's. */
  get awaitsClient(): boolean {
    return this.#dispatch.idle && this.#state !== STATE_SUBMIT && !this.#intake.waiting;
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
    return this.#incoming.target(this.#intake.receiving);
  }

  received(lengthBytes: number): boolean {
    this.#incoming.received(lengthBytes);
    return this.#took(lengthBytes);
  }

  /** `received` for bytes that came into somebody else's target. */
  copied(bytes: Uint8Array): boolean {
    this.#incoming.copied(bytes);
    return this.#took(bytes.length);
  }

  ended(): void {
    this.#ended = true;
    this.#dispatch.endHints();
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
    return !this.#ended && !this.#done && this.#starved();
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
      case STATE_INTAKE:
        return this.#takeIn();
      case STATE_SUBMIT:
        return this.#submit();
      case STATE_IDS:
        return this.#ids();
      case STATE_DRAIN:
        return this.#drain();
      default:
        return false;
    }
  }

  /** NBD proto, "Request message". */
  #header(): boolean {
    const { at, length: staged, view } = this.#staging;
    if (staged < this.#headerForm.bytes || this.#answers.open >= MAX_REQUESTS) return false;
    if (view.getUint32(at) !== this.#headerForm.magic) return this.#drop();
    if (view.getUint16(at + 6) === CMD_DISC) return this.#over('disconnect');
    const slot = this.#answers.begin();
    this.#answers.table.fill(slot, view, at, this.#session);
    this.#staging.consume(this.#headerForm.bytes);
    return this.#route(slot);
  }

  /** Where a request goes from its header. */
  #route(slot: number): boolean {
    const { table } = this.#answers;
    const session = this.#session;
    const type = table.type[slot] ?? 0;
    const flags = table.flags[slot] ?? 0;
    const length = table.length[slot] ?? 0;
    const payload = payloadBytes(session, type, flags, length);
    const reason = refusal(session, type, flags, table.offset[slot] ?? 0, length);
    this.#incoming.narrow = reason === ALLOWED && type === CMD_WRITE && length >= GATHER_BYTES;
    if (reason !== ALLOWED) return this.#refuse(slot, payload, reason);
    if (type !== CMD_BLOCK_STATUS) return this.#accept(slot, type, length);
    if (payload === 0) return this.#acceptStatus(slot);
    this.#slot = slot;
    this.#statusPayload.begin(payload);
    this.#state = STATE_IDS;
    return true;
  }

  #accept(slot: number, type: number, length: number): boolean {
    // With O_DIRECT there is no page cache that a CACHE could fill.
    const isUncached = type === CMD_CACHE && this.#device.blockSizeBytes > 1;
    if (type !== CMD_FLUSH && (length === 0 || isUncached || this.#isUnheard(type))) {
      this.#answers.done(slot);
      return true;
    }
    this.#slot = slot;
    const bytes = bufferBytesOf(type, length);
    if (bytes > 0) this.#intake.begin(slot, type, bytes);
    this.#state = bytes > 0 ? STATE_INTAKE : STATE_SUBMIT;
    return true;
  }

  /** What bitmaps say is known here. */
  #acceptStatus(slot: number): boolean {
    if (this.#answers.asksDevice(slot)) return this.#accept(slot, CMD_BLOCK_STATUS, 1);
    this.#answers.extents(slot, 0);
    return true;
  }

  /** A payload follows all the same; an absurd one is not waited for. */
  #refuse(slot: number, payload: number, reason: number): boolean {
    if (isAbsurd(this.#session, payload)) return this.#drop();
    this.#slot = slot;
    this.#incoming.expect(0, payload);
    this.#drainReason = reason;
    this.#state = STATE_DRAIN;
    return true;
  }

  #ids(): boolean {
    if (!this.#statusPayload.take(this.#staging)) return false;
    const slot = this.#slot;
    this.#state = STATE_HEADER;
    const reason = this.#statusPayload.judge(this.#session, this.#answers.table, slot);
    return reason === ALLOWED ? this.#acceptStatus(slot) : this.#refuse(slot, 0, reason);
  }

  #takeIn(): boolean {
    const ready = this.#intake.step();
    if (!ready && this.#isUnheard(this.#answers.table.type[this.#slot] ?? 0)) return this.#forgo();
    if (ready) this.#state = STATE_SUBMIT;
    return ready;
  }

  /** Nobody waits for the answer to what only asks (C2). */
  #isUnheard(type: number): boolean {
    return this.#answers.sender.deaf && !changesDisk(type);
  }

  #forgo(): boolean {
    this.#intake.abandon();
    this.#answers.done(this.#slot);
    this.#state = STATE_HEADER;
    return true;
  }

  #drain(): boolean {
    if (!this.#incoming.drain()) return false;
    this.#state = STATE_HEADER;
    this.#answers.refuse(this.#slot, this.#drainReason);
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
    const state = this.#state;
    if (state === STATE_HEADER) return this.#staging.length < this.#headerForm.bytes;
    if (state === STATE_INTAKE) return this.#intake.starved;
    return state === STATE_IDS || state === STATE_DRAIN;
  }

  #finish(): void {
    this.#done = true;
    // Nobody reads into it any more: the end, the close or `shutdown` came before.
    this.#intake.abandon();
    this.#state = STATE_OVER;
    if (!this.#closed) this.#socket.end();
    this.#finished();
  }
}
