/**
 * The requests of one connection between header and reply: a table of fixed size, and the rules
 * that a header must keep (NBD proto, "Request types", "Command flags", "Error values").
 *
 *   compact    0       4       6      8        16       24         28
 *              | magic | flags | type | cookie | offset | length u32 |
 *   extended   0       4       6      8        16       24         32
 *              | magic | flags | type | cookie | offset | length u64 |
 */
import type { MetaContext } from './contexts.ts';
import { MAX_DRAINED_BYTES, MAX_PAYLOAD_BYTES, MAX_REQUESTS } from './limits.ts';
import {
  CMD_BLOCK_STATUS,
  CMD_CACHE,
  CMD_DISC,
  CMD_FLAG_DF,
  CMD_FLAG_FAST_ZERO,
  CMD_FLAG_FUA,
  CMD_FLAG_NO_HOLE,
  CMD_FLAG_PAYLOAD_LEN,
  CMD_FLAG_REQ_ONE,
  CMD_FLUSH,
  CMD_READ,
  CMD_TRIM,
  CMD_WRITE,
  CMD_WRITE_ZEROES,
  EXTENDED_REQUEST_MAGIC,
  EXTENDED_REQUEST_SIZE,
  REQUEST_HEADER_SIZE,
  REQUEST_MAGIC,
} from './protocol.ts';
import * as refused from './refusals.ts';

/** What was negotiated, as far as requests depend on it. */
export interface Session {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly maxPayloadBytes: number;
  /** Replies are chunks: structured replies or extended headers were negotiated. */
  readonly structured: boolean;
  /** Extended headers were negotiated, in both directions. */
  readonly extended: boolean;
  /** What the export has, by place. */
  readonly contexts: readonly MetaContext[];
  /** Which of them were selected: see contexts.ts. */
  readonly selection: number;
}

/** A number that is no slot. */
export const NO_SLOT = -1;

/** The payload of a BLOCK_STATUS: u64 length, then u32 ids. */
export const STATUS_LENGTH_BYTES = 8;
export const STATUS_ID_BYTES = 4;

const WORD = 2 ** 32;

/** Requests by slot. A cookie is eight opaque bytes, held as two words. */
export class RequestTable {
  readonly type = new Uint16Array(MAX_REQUESTS);
  readonly flags = new Uint16Array(MAX_REQUESTS);
  readonly cookieHigh = new Uint32Array(MAX_REQUESTS);
  readonly cookieLow = new Uint32Array(MAX_REQUESTS);
  /** As it was sent, for the reply. */
  readonly offsetHigh = new Uint32Array(MAX_REQUESTS);
  readonly offsetLow = new Uint32Array(MAX_REQUESTS);
  /** Both in bytes; above 2^53 they may be rounded, which keeps them past every end. */
  readonly offset = new Float64Array(MAX_REQUESTS);
  readonly length = new Float64Array(MAX_REQUESTS);
  /** Of CACHE: bytes that were read. */
  readonly done = new Float64Array(MAX_REQUESTS);
  /** Of BLOCK_STATUS: the contexts that are asked for. */
  readonly selection = new Uint32Array(MAX_REQUESTS);
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

  /** Fills a slot from the header at `at`. NBD proto, "Request message". */
  fill(slot: number, view: DataView, at: number, session: Session): void {
    const offsetHigh = view.getUint32(at + 16);
    const offsetLow = view.getUint32(at + 20);
    const word = view.getUint32(at + 24);
    this.flags[slot] = view.getUint16(at + 4);
    this.type[slot] = view.getUint16(at + 6);
    this.cookieHigh[slot] = view.getUint32(at + 8);
    this.cookieLow[slot] = view.getUint32(at + 12);
    this.offsetHigh[slot] = offsetHigh;
    this.offsetLow[slot] = offsetLow;
    this.offset[slot] = offsetHigh * WORD + offsetLow;
    this.length[slot] = session.extended ? word * WORD + view.getUint32(at + 28) : word;
    this.done[slot] = 0;
    this.selection[slot] = session.selection;
  }

  /** Frees a slot. */
  give(slot: number): void {
    this.#free[this.#freeCount++] = slot;
  }
}

/** How requests begin, and how long their headers are. */
export interface HeaderForm {
  readonly magic: number;
  readonly bytes: number;
}

/** NBD proto, "Request message". */
export function headerOf({ extended }: Session): HeaderForm {
  return extended
    ? { magic: EXTENDED_REQUEST_MAGIC, bytes: EXTENDED_REQUEST_SIZE }
    : { magic: REQUEST_MAGIC, bytes: REQUEST_HEADER_SIZE };
}

/**
 * The bytes that follow a header. A WRITE has its data behind it whatever its flags say: the client
 * of QEMU 10 does not set PAYLOAD_LEN, which it must. NBD proto, "Request message".
 */
export function payloadBytes(
  { extended }: Session,
  type: number,
  flags: number,
  length: number,
): number {
  const hasPayload = extended && (flags & CMD_FLAG_PAYLOAD_LEN) !== 0;
  return type === CMD_WRITE || hasPayload ? length : 0;
}

/**
 * A payload that is not waited for, whatever it is to: who announces it is dropped. Of clients that
 * were told a smaller maximum, and of those that did not ask for it, more is read away.
 */
export function isAbsurd({ extended }: Session, payload: number): boolean {
  return payload > (extended ? MAX_PAYLOAD_BYTES : MAX_DRAINED_BYTES);
}

/** Flags that a command may carry; FUA is tolerated on all. NBD proto, "Command flags". */
function allowedFlags(type: number, { structured, extended, selection }: Session): number {
  switch (type) {
    case CMD_READ:
      return structured ? CMD_FLAG_FUA | CMD_FLAG_DF : CMD_FLAG_FUA;
    case CMD_WRITE:
      return extended ? CMD_FLAG_FUA | CMD_FLAG_PAYLOAD_LEN : CMD_FLAG_FUA;
    case CMD_WRITE_ZEROES:
      return CMD_FLAG_FUA | CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO;
    case CMD_BLOCK_STATUS:
      // NBD proto, "NBD_FLAG_BLOCK_STATUS_PAYLOAD".
      return extended && selection !== 0
        ? CMD_FLAG_FUA | CMD_FLAG_REQ_ONE | CMD_FLAG_PAYLOAD_LEN
        : CMD_FLAG_FUA | CMD_FLAG_REQ_ONE;
    default:
      return CMD_FLAG_FUA;
  }
}

/**
 * Why a header is refused, or ALLOWED. Of a BLOCK_STATUS with ids `length` is that of the payload;
 * what they ask for is judged by `statusRefusal`. NBD proto, "Error values".
 */
export function refusal(
  session: Session,
  type: number,
  flags: number,
  offset: number,
  length: number,
): number {
  const unknown = flags & ~allowedFlags(type, session);
  if (unknown !== 0)
    return type > CMD_BLOCK_STATUS ? refused.REFUSED_COMMAND : wrongFlags(session, unknown);
  // Past the end the difference is negative, so even a length of 0 lies outside there.
  const outside = length > session.sizeBytes - offset;
  switch (type) {
    case CMD_WRITE:
      if (session.readOnly) return refused.REFUSED_READ_ONLY;
      if (length > session.maxPayloadBytes) return refused.REFUSED_LONG;
      return outside ? refused.REFUSED_NO_ROOM : refused.ALLOWED;
    case CMD_WRITE_ZEROES:
      if (session.readOnly) return refused.REFUSED_READ_ONLY;
      return outside ? refused.REFUSED_NO_ROOM : refused.ALLOWED;
    case CMD_TRIM:
      if (session.readOnly) return refused.REFUSED_READ_ONLY;
      return outside ? refused.REFUSED_RANGE : refused.ALLOWED;
    case CMD_READ:
      if (outside) return refused.REFUSED_RANGE;
      return length > session.maxPayloadBytes ? refused.REFUSED_LONG : refused.ALLOWED;
    case CMD_CACHE:
      return outside ? refused.REFUSED_RANGE : refused.ALLOWED;
    case CMD_BLOCK_STATUS:
      if ((flags & CMD_FLAG_PAYLOAD_LEN) === 0) return statusRefusal(session, offset, length);
      return isIdList(session, length) ? refused.ALLOWED : refused.REFUSED_IDS;
    case CMD_FLUSH:
    case CMD_DISC:
      return refused.ALLOWED;
    default:
      return refused.REFUSED_COMMAND;
  }
}

/** Why a BLOCK_STATUS of this range is refused, or ALLOWED. */
export function statusRefusal(session: Session, offset: number, length: number): number {
  if (session.selection === 0) return refused.REFUSED_CONTEXTS;
  if (length > session.sizeBytes - offset) return refused.REFUSED_RANGE;
  // There is no extent that could describe nothing.
  return length === 0 ? refused.REFUSED_EMPTY : refused.ALLOWED;
}

/** The length of a payload that may name contexts; a longer one names some of them twice. */
function isIdList({ contexts }: Session, length: number): boolean {
  const ids = (length - STATUS_LENGTH_BYTES) / STATUS_ID_BYTES;
  return Number.isInteger(ids) && ids >= 1 && ids <= contexts.length;
}

function wrongFlags({ extended }: Session, unknown: number): number {
  const isPayload = extended && (unknown & CMD_FLAG_PAYLOAD_LEN) !== 0;
  return isPayload ? refused.REFUSED_PAYLOAD : refused.REFUSED_FLAGS;
}
