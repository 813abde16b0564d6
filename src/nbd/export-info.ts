/** An export as clients see it. */
import type { MetaContext } from './contexts.ts';
import {
  TRANSMISSION_BLOCK_STATUS_PAYLOAD,
  TRANSMISSION_CAN_MULTI_CONN,
  TRANSMISSION_HAS_FLAGS,
  TRANSMISSION_READ_ONLY,
  TRANSMISSION_SEND_CACHE,
  TRANSMISSION_SEND_DF,
  TRANSMISSION_SEND_FAST_ZERO,
  TRANSMISSION_SEND_FLUSH,
  TRANSMISSION_SEND_FUA,
  TRANSMISSION_SEND_TRIM,
  TRANSMISSION_SEND_WRITE_ZEROES,
} from './protocol.ts';

/** The export as clients see it. */
export interface ExportInfo {
  readonly name: string;
  readonly description: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly multiConn: boolean;
  /** A power of two of at least 512. NBD proto, "Size constraints". */
  readonly preferredBlockBytes: number;
  readonly maxPayloadBytes: number;
  /** What there is to select, by place. */
  readonly contexts: readonly MetaContext[];
}

/** Requests and replies are compact, and a reply is one piece. */
export const HEADERS_SIMPLE = 0;
/** Replies are chunks. */
export const HEADERS_STRUCTURED = 1;
/** Requests and chunks are extended. */
export const HEADERS_EXTENDED = 2;

/**
 * The transmission flags of an export; DF is only there with structured replies. NBD proto,
 * "Transmission flags".
 * @param headers a HEADERS_* number
 * @param takesIds BLOCK_STATUS may name contexts
 */
export function transmissionFlags(info: ExportInfo, headers: number, takesIds: boolean): number {
  let flags =
    TRANSMISSION_HAS_FLAGS |
    TRANSMISSION_SEND_FLUSH |
    TRANSMISSION_SEND_FUA |
    TRANSMISSION_SEND_CACHE;
  flags |= info.readOnly
    ? TRANSMISSION_READ_ONLY
    : TRANSMISSION_SEND_TRIM | TRANSMISSION_SEND_WRITE_ZEROES | TRANSMISSION_SEND_FAST_ZERO;
  if (headers !== HEADERS_SIMPLE) flags |= TRANSMISSION_SEND_DF;
  if (takesIds) flags |= TRANSMISSION_BLOCK_STATUS_PAYLOAD;
  if (info.multiConn) flags |= TRANSMISSION_CAN_MULTI_CONN;
  return flags;
}
