/**
 * The socket under a connection: reads go into buffers that the owner names, writes go to the
 * descriptor at once. This is the only file that knows more of Node than its documents say:
 *
 *   net.Socket({ handle, onread })   libuv reads into the owner's buffer; no stream machinery
 *   socket._handle, handle.fd        fs.writeSync on the descriptor; no object per write
 *
 * Where one of them is missing the 'data' event and socket.write() take their place.
 */
import { writeSync, writevSync } from 'node:fs';
import { Socket } from 'node:net';
import type { SocketConstructorOpts } from 'node:net';
import { type BusyPoll, MAX_POLL_MS, MAX_POLL_ROUNDS } from './busy-poll.ts';

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

/** Codes of a write that would block. */
const WOULD_BLOCK = new Set(['EAGAIN', 'EWOULDBLOCK']);

export class ByteSocket {
  readonly #owner: SocketOwner;
  readonly #socket: Socket;
  /** The handle whose descriptor is written to; undefined: only socket.write() works. */
  readonly #handle: StreamHandle | undefined;
  /** undefined: libuv alone reads. */
  readonly #poll: BusyPoll | undefined;
  /** Bytes that came while nobody wanted them; the fallback only. */
  #unread: Uint8Array | undefined;

  /** Takes over a socket that was accepted with `pauseOnConnect`. */
  constructor(accepted: Socket, owner: SocketOwner, poll?: BusyPoll) {
    this.#owner = owner;
    this.#poll = poll;
    const handle = handleOf(accepted);
    this.#handle = handle !== undefined && handle.fd >= 0 ? handle : undefined;
    this.#socket = handle === undefined ? accepted : this.#rewrap(accepted, handle);
    if (handle === undefined) this.#listenForData();
    this.#socket.on('end', () => owner.ended());
    // 'close' follows and says all there is to say: the peer is gone.
    this.#socket.on('error', () => this.#socket.destroy());
    this.#socket.on('close', () => owner.closed());
  }

  /** Bytes of `writeLater` that the kernel has not taken yet. */
  get unsentBytes(): number {
    return this.#handle?.writeQueueSize ?? this.#socket.writableLength;
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
    let wanted = owner.received(lengthBytes);
    if (poll === undefined || !wanted) return wanted;
    const deadlineMs = performance.now() + MAX_POLL_MS;
    for (let round = 0; round < MAX_POLL_ROUNDS && wanted && owner.idle; round++) {
      // A destroyed socket's number may be another file's by now.
      if (this.#socket.destroyed || performance.now() >= deadlineMs) break;
      const polled = poll.wait(handle.fd, owner.target());
      if (polled === 0) break;
      wanted = owner.received(polled);
    }
    return wanted;
  }

  #listenForData(): void {
    this.#socket.allowHalfOpen = true;
    this.#socket.on('data', (bytes: Uint8Array) => this.#deliver(bytes));
    this.#socket.resume();
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

/** A full socket takes nothing now; after any other error it never will. */
function refused(error: unknown): number {
  return WOULD_BLOCK.has((error as NodeJS.ErrnoException).code ?? '') ? 0 : -1;
}

/** The handle of a socket, when this Node still has it where Node 20 has it. */
function handleOf(socket: Socket): StreamHandle | undefined {
  const { _handle: handle } = socket as unknown as { _handle?: StreamHandle & Partial<UserBuffer> };
  return typeof handle?.useUserBuffer === 'function' ? handle : undefined;
}
