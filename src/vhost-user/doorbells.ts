/**
 * The descriptors with which the two sides ring each other's bells: eventfds, pipes or sockets.
 * Both sides share whether they block, so not to wait is asked for in each call.
 */
import { closeSync, fstatSync, readlinkSync } from 'node:fs';

import type { StreamHandle } from './front-end.ts';
import type { VhostNative } from './native.ts';
import { broken } from './protocol.ts';

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

/** Calls back whenever the other side rings. Has the descriptor unless the constructor throws. */
export class Kick {
  readonly #handle: StreamHandle;
  /** Without room, as in FrontEnd (F1). */
  readonly #nothing = new Uint8Array(0);

  constructor(fd: number, newHandle: () => StreamHandle, native: VhostNative, rung: () => void) {
    checkBell(fd);
    this.#handle = newHandle();
    const error = this.#handle.open(fd);
    if (error !== undefined && error !== 0) {
      throw broken('a descriptor for a ring that cannot be read');
    }
    this.#handle.useUserBuffer(this.#nothing);
    // QEMU's are born ringing. A ring is looked at anyway when it begins.
    native.silence(fd);
    this.#handle.onread = () => {
      // It has been closed, or somebody else has heard it.
      if (native.silence(fd)) rung();
      else this.#handle.readStop();
    };
    this.#handle.readStart();
  }

  close(): void {
    this.#handle.readStop();
    // Not from inside of onread: the handle is in use there.
    setImmediate(() => this.#handle.close());
  }
}

/** Rings the other side's bell. Has the descriptor unless the constructor throws. */
export class Call {
  readonly #fd: number;
  readonly #native: VhostNative;

  constructor(fd: number, native: VhostNative) {
    checkBell(fd);
    this.#fd = fd;
    this.#native = native;
  }

  /** Nothing happens when it rings already, or nobody can hear it any more. */
  ring(): void {
    this.#native.ring(this.#fd);
  }

  close(): void {
    closeSync(this.#fd);
  }
}
