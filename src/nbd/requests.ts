/**
 * The requests of one connection between header and reply: a table of fixed size, and the rules
 * that a header must keep (NBD proto, "Request types", "Command flags", "Error values").
 */
import { MAX_REQUESTS } from './limits.ts';
import {
  CMD_BLOCK_STATUS,
  CMD_CACHE,
  CMD_DISC,
  CMD_FLAG_DF,
  CMD_FLAG_FAST_ZERO,
  CMD_FLAG_FUA,
  CMD_FLAG_NO_HOLE,
  CMD_FLAG_REQ_ONE,
  CMD_FLUSH,
  CMD_READ,
  CMD_TRIM,
  CMD_WRITE,
  CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_ENOSPC,
  NBD_EPERM,
} from './protocol.ts';

/** What was negotiated, as far as requests depend on it. */
export interface Session {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly maxPayloadBytes: number;
  /** Structured replies were negotiated. */
  readonly structured: boolean;
  /** base:allocation was selected. */
  readonly allocation: boolean;
}

/** A number that is no slot. */
export const NO_SLOT = -1;

/** Requests by slot. A cookie is eight opaque bytes, held as two words. */
export class RequestTable {
  readonly type = new Uint16Array(MAX_REQUESTS);
  readonly flags = new Uint16Array(MAX_REQUESTS);
  readonly cookieHigh = new Uint32Array(MAX_REQUESTS);
  readonly cookieLow = new Uint32Array(MAX_REQUESTS);
  readonly offset = new Float64Array(MAX_REQUESTS);
  readonly length = new Uint32Array(MAX_REQUESTS);
  /** The arena buffer of the request, 0: none. */
  readonly address = new Uint32Array(MAX_REQUESTS);
  /** The length that the buffer was asked for with. */
  readonly bufferBytes = new Uint32Array(MAX_REQUESTS);
  readonly #free = new Uint16Array(MAX_REQUESTS);
  #freeCount = MAX_REQUESTS;

  constructor() {
    // The last freed is the first reused: its entries are warm.
    for (let slot = 0; slot < MAX_REQUESTS; slot++) this.#free[slot] = MAX_REQUESTS - 1 - slot;
  }

  /** A free slot; the caller has counted that there is one. */
  take(): number {
    return this.#free[--this.#freeCount] ?? NO_SLOT;
  }

  /** Frees a slot. */
  give(slot: number): void {
    this.#free[this.#freeCount++] = slot;
  }
}

/** Flags that a command may carry; FUA is tolerated on all. NBD proto, "Command flags". */
function allowedFlags(type: number, structured: boolean): number {
  switch (type) {
    case CMD_READ:
      return structured ? CMD_FLAG_FUA | CMD_FLAG_DF : CMD_FLAG_FUA;
    case CMD_WRITE_ZEROES:
      return CMD_FLAG_FUA | CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO;
    case CMD_BLOCK_STATUS:
      return CMD_FLAG_FUA | CMD_FLAG_REQ_ONE;
    case CMD_DISC:
      return 0xffff; // nobody would read the refusal
    default:
      return CMD_FLAG_FUA;
  }
}

/**
 * The error that a header earns, 0 when it is good. NBD proto, "Error values".
 * @param offset above 2^53 it may be rounded, which keeps it past every end
 */
export function refusal(
  session: Session,
  type: number,
  flags: number,
  offset: number,
  length: number,
): number {
  if ((flags & ~allowedFlags(type, session.structured)) !== 0) return NBD_EINVAL;
  // Past the end the difference is negative, so even a length of 0 lies outside there.
  const outside = length > session.sizeBytes - offset;
  switch (type) {
    case CMD_WRITE:
      if (session.readOnly) return NBD_EPERM;
      if (length > session.maxPayloadBytes) return NBD_EINVAL;
      return outside ? NBD_ENOSPC : 0;
    case CMD_WRITE_ZEROES:
      if (session.readOnly) return NBD_EPERM;
      return outside ? NBD_ENOSPC : 0;
    case CMD_TRIM:
      if (session.readOnly) return NBD_EPERM;
      return outside ? NBD_EINVAL : 0;
    case CMD_READ:
    case CMD_CACHE:
      return outside || length > session.maxPayloadBytes ? NBD_EINVAL : 0;
    case CMD_BLOCK_STATUS:
      // There is no extent that could describe nothing.
      return outside || length === 0 || !session.allocation ? NBD_EINVAL : 0;
    case CMD_FLUSH:
    case CMD_DISC:
      return 0;
    default:
      return NBD_EINVAL;
  }
}
