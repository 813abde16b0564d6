/**
 * The connection to a front-end: messages with descriptors, read one at a time, when they are asked
 * for.
 *
 * F1  libuv has no recvmsg that hands out descriptors. So it is given a buffer without room: it
 *     tells of bytes that can be read and reads none, and they are read here, without waiting.
 * F2  Nothing is read while a message is being worked on: a front-end that sends more waits.
 *     Nor does one that never stops keep this process from other work.
 * F3  A descriptor belongs to the message that it came with, and what nobody takes is closed.
 */
import { closeSync } from 'node:fs';
import type { Socket } from 'node:net';

import { SluiceError } from '../errors.ts';
import type { VhostNative } from './native.ts';
import {
  broken,
  HEADER_BYTES,
  LEAST_PAYLOAD,
  MAX_FDS,
  type Message,
  nameOf,
  parseHeader,
} from './protocol.ts';

/** What libuv offers for a socket, a pipe or an eventfd: net.Socket's handle. */
export interface StreamHandle {
  readonly fd: number;
  onread: () => void;
  useUserBuffer(buffer: Uint8Array): void;
  readStart(): number;
  readStop(): number;
  /** Answers a libuv error, or nothing. */
  open(fd: number): number | undefined;
  close(closed?: () => void): void;
}

/** The handle of a socket, where this Node has what F1 needs. */
export function handleOf(socket: Socket): StreamHandle {
  const { _handle: handle } = socket as unknown as { readonly _handle: StreamHandle | null };
  const methods = ['useUserBuffer', 'readStart', 'readStop', 'open'] as const;
  if (handle === null) throw broken('nothing: the connection is closed');
  if (methods.every((name) => typeof handle[name] === 'function')) return handle;
  throw new SluiceError(
    'ERR_SLUICE_UNSUPPORTED',
    `vhost-user cannot be served: this Node (${process.version}) lets nobody wait for a socket ` +
      'without reading it',
  );
}

/** Read without a turn of the event loop. */
const MESSAGES_OF_A_TURN = 32;

export class FrontEnd {
  readonly #socket: Socket;
  readonly #handle: StreamHandle;
  readonly #native: VhostNative;
  /** Without room (F1). */
  readonly #nothing = new Uint8Array(0);
  #wake: (() => void) | undefined;
  #isStopped = false;
  #isClosed = false;
  /** Messages that were asked for. */
  #asked = 0;

  constructor(socket: Socket, native: VhostNative) {
    this.#socket = socket;
    this.#handle = handleOf(socket);
    this.#native = native;
    this.#handle.useUserBuffer(this.#nothing);
    this.#handle.onread = () => {
      this.#handle.readStop();
      this.#wake?.();
    };
    socket.on('error', () => this.close());
  }

  /** A stream handle of the same kind. */
  newHandle(): StreamHandle {
    const Handle = this.#handle.constructor as new (type: number) => StreamHandle;
    return new Handle(0);
  }

  /**
   * The next message; undefined: the connection has ended.
   * @throws SluiceError ERR_SLUICE_CONNECTION for what is no message
   */
  async next(): Promise<Message | undefined> {
    const fds: number[] = [];
    this.#asked += 1;
    if (this.#asked % MESSAGES_OF_A_TURN === 0)
      await new Promise((resolve) => setImmediate(resolve));
    try {
      const head = new Uint8Array(HEADER_BYTES);
      if (!(await this.#fill(head, fds))) return undefined;
      const { request, needsReply, payloadBytes } = parseHeader(new DataView(head.buffer));
      const payload = new DataView(new ArrayBuffer(payloadBytes));
      const isWhole = await this.#fill(new Uint8Array(payload.buffer), fds);
      if (!isWhole) throw broken('half a message, and leaves');
      const name = nameOf(request);
      const least = name === undefined ? 0 : (LEAST_PAYLOAD[name] ?? 0);
      if (payloadBytes < least) {
        throw broken(`${name} with ${payloadBytes} bytes of payload; it has ${least}`);
      }
      return { name, request, needsReply, payload, fds: fds.splice(0) };
    } finally {
      closeAll(fds);
    }
  }

  /** Sends a message, with a descriptor or without. */
  send(bytes: Uint8Array, fd?: number): void {
    if (!this.#isClosed) this.#native.send(this.#handle.fd, bytes, fd);
  }

  /** Nothing more is read: what waits for the next message is told that there is none. */
  stop(): void {
    this.#isStopped = true;
    this.#wake?.();
  }

  close(): void {
    this.stop();
    this.#isClosed = true;
    // Not from inside of onread: the handle is in use there.
    setImmediate(() => this.#socket.destroy());
  }

  /** False: the connection has ended before the first byte. */
  async #fill(into: Uint8Array, fds: number[]): Promise<boolean> {
    for (let at = 0; at < into.length;) {
      if (this.#isStopped) return false;
      const got = this.#native.receive(this.#handle.fd, into.subarray(at));
      if (got === 'later') await this.#readable();
      else if (got === 'ended') {
        if (at > 0) throw broken('half a message, and leaves');
        return false;
      } else {
        fds.push(...got.fds);
        if (fds.length > MAX_FDS) throw broken(`more than ${MAX_FDS} descriptors at once`);
        at += got.length;
      }
    }
    return true;
  }

  async #readable(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      this.#handle.readStart();
    });
    this.#wake = undefined;
  }
}

/** Closes descriptors that nobody has taken. */
export function closeAll(fds: readonly number[]): void {
  for (const fd of fds) if (fd >= 0) closeSync(fd);
}
