/**
 * Bytes from a server, put where they are wanted.
 *
 * B1 The socket reads only while nothing is staged, so that one window is enough.
 * B2 What is long goes from the socket straight to its place.
 */
import type { OnReadOpts, Socket } from 'node:net';

const WINDOW_BYTES = 16_384;
/** What is shorter is read together with what follows it. */
const DIRECT_BYTES = 4096;
const NOTHING = new Uint8Array(0);

/** The receiving side of a connection. */
export class Incoming {
  readonly #window = new Uint8Array(WINDOW_BYTES);
  #socket: Socket | undefined;
  #staged: Uint8Array = NOTHING;
  #into: Uint8Array = NOTHING;
  #have = 0;
  #then: (() => void) | undefined;
  #isDelivering = false;
  #isPaused = false;

  /** For `net.connect`. */
  get onread(): OnReadOpts {
    return {
      buffer: () => this.#target(),
      callback: (length, bytes) => this.#received(length, bytes),
    };
  }

  /** The socket that `onread` was given to. */
  attach(socket: Socket): void {
    this.#socket = socket;
  }

  /** From here on bytes come from another socket, which has no `onread`. */
  listenTo(socket: Socket): void {
    this.#socket = socket;
    socket.on('data', (bytes: Uint8Array) => {
      this.#staged = bytes;
      this.#deliver();
      this.#isPaused = this.#staged.length > 0;
      if (this.#isPaused) socket.pause();
    });
  }

  /** Bytes that came, and that nobody has asked for. */
  get stagedBytes(): number {
    return this.#staged.length;
  }

  /** Fills `into`, then calls `then`, which says what comes next. */
  expect(into: Uint8Array, then: () => void): void {
    this.#into = into;
    this.#have = 0;
    this.#then = then;
    if (!this.#isDelivering) this.#deliver();
  }

  /** `expect` of so many bytes as a promise, which stays open when the connection fails. */
  read(length: number): Promise<Uint8Array> {
    const into = new Uint8Array(length);
    return new Promise((resolve) => this.expect(into, () => resolve(into)));
  }

  /** Nothing more is delivered. */
  end(): void {
    this.#then = undefined;
    this.#staged = NOTHING;
    this.#into = NOTHING;
    this.#have = 0;
  }

  /** Asked for when what came before is delivered. */
  #target(): Uint8Array {
    const isDirect = this.#then !== undefined && this.#into.length - this.#have >= DIRECT_BYTES;
    return isDirect ? this.#into.subarray(this.#have) : this.#window;
  }

  #received(length: number, bytes: Uint8Array): boolean {
    if (bytes === this.#window) this.#staged = bytes.subarray(0, length);
    else this.#have += length;
    this.#deliver();
    this.#isPaused = this.#staged.length > 0;
    return !this.#isPaused;
  }

  #deliver(): void {
    this.#isDelivering = true;
    while (this.#then !== undefined) {
      const length = Math.min(this.#staged.length, this.#into.length - this.#have);
      this.#into.set(this.#staged.subarray(0, length), this.#have);
      this.#staged = this.#staged.subarray(length);
      this.#have += length;
      if (this.#have < this.#into.length) break;
      const then = this.#then;
      this.#then = undefined;
      then();
    }
    this.#isDelivering = false;
    if (!this.#isPaused || this.#staged.length > 0) return;
    this.#isPaused = false;
    this.#socket?.resume();
  }
}
