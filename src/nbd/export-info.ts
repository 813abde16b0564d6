/** An export as clients see it. */
import {
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
}

/**
 * The transmission flags of an export; DF is only there with structured replies. NBD proto,
 * "Transmission flags".
 */
export function transmissionFlags(info: ExportInfo, structured: boolean): number {
  let flags =
    TRANSMISSION_HAS_FLAGS |
    TRANSMISSION_SEND_FLUSH |
    TRANSMISSION_SEND_FUA |
    TRANSMISSION_SEND_CACHE;
  flags |= info.readOnly
    ? TRANSMISSION_READ_ONLY
    : TRANSMISSION_SEND_TRIM | TRANSMISSION_SEND_WRITE_ZEROES | TRANSMISSION_SEND_FAST_ZERO;
  if (structured) flags |= TRANSMISSION_SEND_DF;
  if (info.multiConn) flags |= TRANSMISSION_CAN_MULTI_CONN;
  return flags;
}
