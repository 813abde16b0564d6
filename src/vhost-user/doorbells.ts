/** The descriptors with which the two sides ring each other's bells: eventfds, pipes or sockets. */
import { closeSync, fstatSync, readlinkSync, writeSync } from 'node:fs';

import type { StreamHandle } from './front-end.ts';
import type { VhostNative } from './native.ts';
import { broken } from './protocol.ts';

const EVENT_BYTES = 8;
const ONE = new Uint8Array(new BigUint64Array([1n]).buffer);
/** The bell rings already, or its owner has gone. */
const IGNORED: ReadonlySet<string | undefined> = new Set(['EAGAIN', 'EPIPE', 'ECONNRESET']);

/**
 * Refuses what cannot be waited for: the event loop would end this process for it.
 * @throws SluiceError ERR_SLUICE_CONNECTION
 */
function checkBell(fd: number): void {
  const found = fstatSync(fd);
  if (found.isFIFO() || found.isSocket()) return;
  if (readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventfd]') return;
  throw broken('a descriptor for a ring that is no eventfd, pipe or socket');
}

/** Calls back whenever the other side rings. Takes the descriptor. */
export class Kick {
  readonly #handle: StreamHandle;
  /** The handle has its address, and nothing else keeps it. */
  readonly #count = new Uint8Array(EVENT_BYTES);

  constructor(fd: number, newHandle: () => StreamHandle, rung: () => void) {
    checkBell(fd);
    this.#handle = newHandle();
    this.#handle.open(fd);
    this.#handle.useUserBuffer(this.#count);
    this.#handle.onread = rung;
    this.#handle.readStart();
  }

  close(): void {
    this.#handle.readStop();
    // Not from inside of onread: the handle is in use there.
    setImmediate(() => this.#handle.close());
  }
}

/** Rings the other side's bell. Takes the descriptor. */
export class Call {
  readonly #fd: number;

  constructor(fd: number, native: VhostNative) {
    checkBell(fd);
    // A front-end that does not listen must not stop us.
    native.doNotBlock(fd);
    this.#fd = fd;
  }

  ring(): void {
    try {
      writeSync(this.#fd, ONE);
    } catch (error) {
      if (!IGNORED.has((error as NodeJS.ErrnoException).code)) throw error;
    }
  }

  close(): void {
    closeSync(this.#fd);
  }
}
