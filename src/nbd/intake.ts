/**
 * A request's way to its buffer in the arena and, of a WRITE, the way of its data there.
 *
 *   begin ─┬─▶ first ──▶ buffer ──▶ payload ──▶ ready
 *          │     └─────▶ heap ──▶ buffer ──▶ ready
 *          └───────────▶ buffer ──▶ payload, or ready
 *
 * first     a large WRITE gets memory when the first of its data is here: who only announces it
 *           holds none
 * heap      its data comes into memory of the heap: there is no room for slow ones in the arena
 * buffer    waits for its share of the arena
 * payload   its data comes straight into the arena
 */
import type { Device } from '../device.ts';
import type { Answers } from './answers.ts';
import { ArenaShare } from './arena-share.ts';
import type { Incoming } from './incoming.ts';
import { FIRST_BYTES } from './limits.ts';
import { CMD_WRITE } from './protocol.ts';
import type { Entrance, Reception } from './reception.ts';
import { NO_SLOT } from './requests.ts';

const STATE_READY = 0;
const STATE_FIRST = 1;
const STATE_HEAP = 2;
const STATE_BUFFER = 3;
const STATE_PAYLOAD = 4;

export class Intake {
  readonly #answers: Answers;
  readonly #incoming: Incoming;
  readonly #reception: Reception;
  readonly #share: ArenaShare;
  #state = STATE_READY;
  #slot = NO_SLOT;
  #bytes = 0;
  #isWrite = false;
  #entrance: Entrance | undefined;

  /** @param wake called when a buffer that was waited for is there */
  constructor(
    device: Device,
    reception: Reception,
    answers: Answers,
    incoming: Incoming,
    wake: () => void,
  ) {
    this.#answers = answers;
    this.#incoming = incoming;
    this.#reception = reception;
    this.#share = new ArenaShare(device.arena, wake);
  }

  /** Data goes straight to where it is to be. */
  get receiving(): boolean {
    return this.#state === STATE_PAYLOAD || this.#state === STATE_HEAP;
  }

  /** Cannot go on without more bytes. */
  get starved(): boolean {
    if (this.#state === STATE_FIRST) return this.#incoming.staging.length < FIRST_BYTES;
    return this.receiving;
  }

  /** Holds a buffer until the client sends. */
  get stalling(): boolean {
    return this.#state === STATE_PAYLOAD;
  }

  /** In the line for a buffer of the arena. */
  get waiting(): boolean {
    return this.#share.waiting;
  }

  /** A request that needs a buffer of so many bytes, which are the data of a WRITE. */
  begin(slot: number, type: number, bytes: number): void {
    this.#slot = slot;
    this.#bytes = bytes;
    this.#isWrite = type === CMD_WRITE;
    this.#state = this.#isWrite && bytes > FIRST_BYTES ? STATE_FIRST : STATE_BUFFER;
  }

  /** Goes on as far as it can; true: the request has all that it needs. */
  step(): boolean {
    if (this.#state === STATE_FIRST && !this.#enter()) return false;
    if (this.#state === STATE_HEAP) {
      if (!this.#incoming.receive()) return false;
      this.#state = STATE_BUFFER;
    }
    if (this.#state === STATE_BUFFER && !this.#claim()) return false;
    if (this.#state === STATE_PAYLOAD && !this.#incoming.receive()) return false;
    this.#leave();
    return true;
  }

  /** The client is gone, and with it the bytes that a request lacks, or who wanted to know. */
  abandon(): void {
    if (this.#state === STATE_PAYLOAD) this.#answers.release(this.#slot);
    this.#share.giveUp();
    this.#incoming.forget();
    this.#leave();
  }

  #enter(): boolean {
    if (this.starved) return false;
    this.#entrance = this.#reception.enter(this.#bytes);
    this.#state = this.#entrance === 'heap' ? STATE_HEAP : STATE_BUFFER;
    if (this.#entrance === 'heap') this.#incoming.expectInHeap(this.#bytes);
    return true;
  }

  #claim(): boolean {
    const bytes = this.#bytes;
    const { heldSmallBytes, heldLargeBytes } = this.#answers;
    const address = this.#share.take(bytes, heldSmallBytes, heldLargeBytes);
    if (address === 0) return false;
    this.#answers.hold(this.#slot, address, bytes);
    if (this.#entrance === 'heap') this.#incoming.deliver(address);
    else if (this.#isWrite) {
      this.#incoming.expect(address, bytes);
      this.#state = STATE_PAYLOAD;
    }
    return true;
  }

  #leave(): void {
    this.#state = STATE_READY;
    if (this.#entrance === undefined) return;
    this.#reception.leave(this.#entrance, this.#bytes);
    this.#entrance = undefined;
  }
}
