/** Front-ends that wait for the one before: those that have gone meanwhile take no place. */
import type { Socket } from 'node:net';

import { handleOf } from './front-end.ts';
import type { VhostNative } from './native.ts';

const PLACES = 16;
/** Longer than the end of a front-end takes, after which the same one comes back. */
const NOTICE_MS = 1000;

export class WaitingRoom {
  readonly #native: VhostNative;
  readonly #notice: () => void;
  readonly #waiting = new Map<Socket, NodeJS.Timeout>();

  /** @param notice one has been waiting for a second */
  constructor(native: VhostNative, notice: () => void) {
    this.#native = native;
    this.#notice = notice;
  }

  /** False: there is no place, and it is sent away. */
  enter(socket: Socket): boolean {
    for (const other of this.#waiting.keys()) if (this.#hasGone(other)) this.#sendAway(other);
    if (this.#waiting.size >= PLACES) {
      socket.destroy();
      return false;
    }
    const timer = setTimeout(() => {
      if (this.#hasGone(socket)) this.#sendAway(socket);
      else this.#notice();
    }, NOTICE_MS);
    this.#waiting.set(socket, timer);
    return true;
  }

  /** Its turn has come. */
  leave(socket: Socket): void {
    clearTimeout(this.#waiting.get(socket));
    this.#waiting.delete(socket);
  }

  /** Nobody reads the sockets that wait, so nobody is told. */
  #hasGone(socket: Socket): boolean {
    return socket.destroyed || this.#native.hasHungUp(handleOf(socket).fd);
  }

  #sendAway(socket: Socket): void {
    this.leave(socket);
    socket.destroy();
  }
}
