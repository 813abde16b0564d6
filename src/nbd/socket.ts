/**
 * The socket under a connection: reads go into buffers that the owner names, writes go to the
 * descriptor at once. This is the only file that knows more of Node than its documents say:
 *
 *   net.Socket({ handle, onread })   libuv reads into the owner's buffer; no stream machinery
 *   socket._handle, handle.fd        fs.writeSync on the descriptor; no object per write
 *
 * Where one of them is missing, and over TLS, the 'data' event and socket.write() take their place:
 *
 *   clear ──secure──▶ handshake ──▶ TLS
 *                         └──▶ gone
 *
 * W1  Over TLS nothing is written to the descriptor, and no more than SLICE_BYTES are encrypted
 *     before the kernel has what came before them.
 */
import { writeSync, writevSync } from 'node:fs';
import { Socket } from 'node:net';
import type { SocketConstructorOpts } from 'node:net';
import { type BusyPoll, MAX_POLL_MS, MAX_POLL_ROUNDS } from './busy-poll.ts';
import { beginTls, type TlsSettings } from './tls.ts';

/** Who owns a socket. Nothing is called after `closed`. */
export interface SocketOwner {
  /** Where the next bytes shall go: not empty, and left alone until they have come. */
  target(): Uint8Array;
  /**
   * `lengthBytes` lie at the start of the last target.
   * @returns false to stop reading until `resume`
   */
  received(lengthBytes: number): boolean;
  /** Everything is answered, and nobody else waits for this thread: it may poll for more. */
  readonly idle: boolean;
  /** The peer will send nothing more. */
  ended(): void;
  /** The socket is gone; `written` callbacks that are still due will not come. */
  closed(): void;
}

/** The parts of libuv's stream handle that are used. */
interface StreamHandle {
  readonly fd: number;
  /** Bytes that libuv has not handed to the kernel yet. */
  readonly writeQueueSize: number;
}

/** The method that makes libuv read into a given buffer. */
interface UserBuffer {
  useUserBuffer(buffer: Uint8Array): void;
}

/** Options that Node 20 takes but does not document for the constructor. */
interface HandleOptions extends SocketConstructorOpts {
  readonly handle: StreamHandle;
  readonly onread: {
    readonly buffer: () => Uint8Array;
    readonly callback: (lengthBytes: number) => boolean;
  };
}

/** Written at once without a handle: what is encrypted is memory of its own. */
const SLICE_BYTES = 131_072;

/** Codes of a write that would block. */
const WOULD_BLOCK = new Set(['EAGAIN', 'EWOULDBLOCK']);

export class ByteSocket {
  readonly #owner: SocketOwner;
  /** What is written to and read from; over TLS another one than before. */
  #socket: Socket;
  /** The handle whose descriptor is written to; undefined: only socket.write() works. */
  #handle: StreamHandle | undefined;
  /** undefined: libuv alone reads. */
  #poll: BusyPoll | undefined;
  /** Bytes that came while nobody wanted them; without a handle only. */
  #unread: Uint8Array | undefined;
  /** Bytes of `writeLater` that the socket was not given yet; without a handle only. */
  #slicedBytes = 0;
  /** By its owner. */
  #destroyed = false;
  readonly #onData = (bytes: Uint8Array): void => this.#deliver(bytes);
  readonly #onEnd = (): void => this.#owner.ended();
  readonly #onClose = (): void => this.#owner.closed();

  /** Takes over a socket that was accepted with `pauseOnConnect`. */
  constructor(accepted: Socket, owner: SocketOwner, poll?: BusyPoll) {
    this.#owner = owner;
    this.#poll = poll;
    const handle = handleOf(accepted);
    this.#handle = handle !== undefined && handle.fd >= 0 ? handle : undefined;
    this.#socket = handle === undefined ? accepted : this.#rewrap(accepted, handle);
    if (handle === undefined) this.#listenForData();
    this.#listen();
  }

  /** Bytes of `writeLater` that the kernel has not taken yet. */
  get unsentBytes(): number {
    return this.#handle?.writeQueueSize ?? this.#socket.writableLength + this.#slicedBytes;
  }

  /**
   * Goes on over TLS, as the server. Nothing may be under way: the owner has stopped reading, and
   * everything that it wrote is with the kernel. It resumes when it is `done`.
   * @param done called once, with the reason why there is no TLS; not after `destroy`
   */
  secure(tls: TlsSettings, done: (error: Error | undefined) => void): void {
    if (this.#unread !== undefined || this.#socket.readableLength > 0) {
      return done(new Error('it sent bytes in clear behind STARTTLS'));
    }
    this.#socket.off('data', this.#onData);
    // Not from inside a callback of the socket, which looks at it afterwards.
    setImmediate(() => {
      if (this.#socket.destroyed) return;
      this.#socket.off('end', this.#onEnd);
      let ended = false;
      beginTls(this.#socket, tls, (error, secured) => {
        if (ended || this.#destroyed) return;
        ended = true;
        if (error === undefined) this.#becomeSecure(secured);
        done(error);
      });
    });
  }

  /**
   * Writes the first `lengthBytes` bytes as far as the kernel takes them now.
   * @returns how many it took; -1 when the peer will never read them
   */
  writeNow(bytes: Uint8Array, lengthBytes: number): number {
    if (this.#socket.destroyed) return -1;
    if (this.#handle === undefined) return 0;
    try {
      return writeSync(this.#handle.fd, bytes, 0, lengthBytes);
    } catch (error) {
      return refused(error);
    }
  }

  /** The same for several pieces. */
  writevNow(pieces: readonly Uint8Array[]): number {
    if (this.#socket.destroyed) return -1;
    if (this.#handle === undefined) return 0;
    try {
      return writevSync(this.#handle.fd, pieces);
    } catch (error) {
      return refused(error);
    }
  }

  /** Hands pieces over; they must not change until `written`, which comes unless it closes. */
  writeLater(pieces: readonly Uint8Array[], written: () => void): void {
    if (this.#handle === undefined) return this.#writeSlices(pieces, written);
    this.#writeTogether(pieces, written);
  }

  /** Reads nothing more until `resume`: the last target is left alone from here on. */
  pause(): void {
    this.#socket.pause();
  }

  /** Reads again after `received` returned false. */
  resume(): void {
    if (this.#unread === undefined) this.#socket.resume();
    // Not from inside the owner's own call.
    else setImmediate(() => this.#deliverUnread());
  }

  /** Sends what was written, then closes. */
  end(): void {
    this.#socket.end(() => this.#socket.destroy());
  }

  /** Closes at once. */
  destroy(): void {
    this.#destroyed = true;
    this.#socket.destroy();
  }

  /** A second Socket around the handle, since only a constructor takes `onread`. */
  #rewrap(accepted: Socket, handle: StreamHandle): Socket {
    // Without its handle the first Socket is an empty shell, which the net.Server then forgets.
    (accepted as unknown as { _handle: null })._handle = null;
    accepted.destroy();
    const options: HandleOptions = {
      handle,
      allowHalfOpen: true,
      onread: {
        buffer: () => this.#owner.target(),
        callback: (lengthBytes) => this.#received(handle, lengthBytes),
      },
    };
    return new Socket(options);
  }

  /**
   * Hands over what libuv read, and what comes while polling. Node asks for a new target after
   * this, so libuv never reads into one that the poll has used.
   */
  #received(handle: StreamHandle, lengthBytes: number): boolean {
    const owner = this.#owner;
    const poll = this.#poll;
    if (poll === undefined) return owner.received(lengthBytes);
    let startMs = performance.now();
    const deadlineMs = startMs + MAX_POLL_MS;
    let wanted = owner.received(lengthBytes);
    for (let round = 0; round < MAX_POLL_ROUNDS && wanted && owner.idle; round++) {
      const nowMs = performance.now();
      if (nowMs >= deadlineMs || nowMs - startMs > poll.budgetMs) break;
      // A destroyed socket's number may be another file's by now.
      if (this.#socket.destroyed) break;
      const polled = poll.wait(handle.fd, owner.target());
      if (polled === 0) break;
      startMs = performance.now();
      wanted = owner.received(polled);
    }
    return wanted;
  }

  #listen(): void {
    const socket = this.#socket;
    socket.on('end', this.#onEnd);
    // 'close' follows and says all there is to say: the peer is gone.
    socket.on('error', () => socket.destroy());
    socket.on('close', this.#onClose);
  }

  #listenForData(): void {
    this.#socket.allowHalfOpen = true;
    this.#socket.on('data', this.#onData);
    this.#socket.resume();
  }

  /** The socket below is its business from here on (W1). */
  #becomeSecure(secured: Socket): void {
    this.#socket.off('close', this.#onClose);
    this.#socket = secured;
    this.#handle = undefined;
    this.#poll = undefined;
    this.#listen();
    secured.on('data', this.#onData);
    secured.pause();
  }

  #writeTogether(pieces: readonly Uint8Array[], written: () => void): void {
    const last = pieces.length - 1;
    this.#socket.cork();
    for (let index = 0; index <= last; index++) {
      const piece = pieces[index];
      if (piece === undefined) continue;
      if (index < last) this.#socket.write(piece);
      else this.#socket.write(piece, (error) => (error ? undefined : written()));
    }
    this.#socket.uncork();
  }

  /** One slice after the other (W1). */
  #writeSlices(pieces: readonly Uint8Array[], written: () => void): void {
    const left = slicesOf(pieces);
    for (const slice of left) this.#slicedBytes += lengthOf(slice);
    const next = (): void => {
      const slice = left.shift();
      if (slice === undefined) return written();
      this.#slicedBytes -= lengthOf(slice);
      this.#writeTogether(slice, next);
    };
    next();
  }

  #deliverUnread(): void {
    if (this.#unread !== undefined) this.#deliver(this.#unread);
    if (this.#unread === undefined) this.#socket.resume();
  }

  /** Copies into one target after the other, as far as the owner wants it. */
  #deliver(bytes: Uint8Array): void {
    this.#unread = undefined;
    let at = 0;
    while (at < bytes.length && !this.#socket.destroyed) {
      const target = this.#owner.target();
      const length = Math.min(target.length, bytes.length - at);
      target.set(bytes.subarray(at, at + length));
      at += length;
      if (this.#owner.received(length)) continue;
      this.#socket.pause();
      if (at < bytes.length) this.#unread = bytes.subarray(at);
      return;
    }
  }
}

/** Pieces of up to SLICE_BYTES together. */
function slicesOf(pieces: readonly Uint8Array[]): Uint8Array[][] {
  const slices: Uint8Array[][] = [];
  let room = 0;
  for (const piece of pieces) {
    for (let at = 0; at < piece.length;) {
      if (room === 0) {
        slices.push([]);
        room = SLICE_BYTES;
      }
      const part = piece.subarray(at, at + room);
      slices.at(-1)?.push(part);
      at += part.length;
      room -= part.length;
    }
  }
  return slices;
}

function lengthOf(pieces: readonly Uint8Array[]): number {
  return pieces.reduce((sum, { length }) => sum + length, 0);
}

/** A full socket takes nothing now; after any other error it never will. */
function refused(error: unknown): number {
  return WOULD_BLOCK.has((error as NodeJS.ErrnoException).code ?? '') ? 0 : -1;
}

/** The handle of a socket, when this Node still has it where Node 20 has it. */
function handleOf(socket: Socket): StreamHandle | undefined {
  const { _handle: handle } = socket as unknown as { _handle?: StreamHandle & Partial<UserBuffer> };
  return typeof handle?.useUserBuffer === 'function' ? handle : undefined;
}
