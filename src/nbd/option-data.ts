/**
 * The data of options, parsed: bytes in, a record or undefined out. Every length inside the data is
 * checked against the option's own length before it is used, and nothing is allocated by announced
 * numbers (NBD proto, "Option types": a malformed one is answered with NBD_REP_ERR_INVALID).
 */
import { MAX_STRING_BYTES } from './protocol.ts';

/** INFO and GO. NBD proto, "NBD_OPT_INFO". */
export interface InfoRequest {
  readonly name: string;
  /** The information types asked for. */
  readonly types: ReadonlySet<number>;
}

/** LIST_META_CONTEXT and SET_META_CONTEXT. NBD proto, "NBD_OPT_LIST_META_CONTEXT". */
export interface ContextRequest {
  readonly name: string;
  readonly queries: readonly string[];
}

// A byte order mark is a character of the name like any other.
const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** A cursor over the data; every read fails past the end and stays failed. */
class Reader {
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  #at = 0;
  failed = false;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  u16(): number {
    return this.#advance(2) ? this.#view.getUint16(this.#at - 2) : 0;
  }

  u32(): number {
    return this.#advance(4) ? this.#view.getUint32(this.#at - 4) : 0;
  }

  /** A string of a length that came before it. */
  text(lengthBytes: number): string {
    if (!this.#advance(lengthBytes)) return '';
    const text = decodeString(this.#bytes.subarray(this.#at - lengthBytes, this.#at));
    if (text === undefined) this.failed = true;
    return text ?? '';
  }

  #advance(lengthBytes: number): boolean {
    if (this.failed || lengthBytes > this.left) {
      this.failed = true;
      return false;
    }
    this.#at += lengthBytes;
    return true;
  }
}

/**
 * A string of the wire: UTF-8 without NUL of at most 4096 bytes, or undefined. NBD proto, "Values".
 */
export function decodeString(bytes: Uint8Array): string | undefined {
  if (bytes.length > MAX_STRING_BYTES || bytes.includes(0)) return undefined;
  try {
    return UTF8.decode(bytes);
  } catch {
    return undefined; // not UTF-8: the caller answers that
  }
}

/** The data of INFO or GO, or undefined when it is malformed. NBD proto, "NBD_OPT_INFO". */
export function parseInfoRequest(data: Uint8Array): InfoRequest | undefined {
  const reader = new Reader(data);
  const name = reader.text(reader.u32());
  const count = reader.u16();
  if (reader.failed || reader.left !== 2 * count) return undefined;
  const types = new Set<number>();
  for (let index = 0; index < count; index++) types.add(reader.u16());
  return { name, types };
}

/** The data of a META_CONTEXT option, or undefined. NBD proto, "NBD_OPT_LIST_META_CONTEXT". */
export function parseContextRequest(data: Uint8Array): ContextRequest | undefined {
  const reader = new Reader(data);
  const name = reader.text(reader.u32());
  const count = reader.u32();
  if (reader.failed || reader.left < 4 * count) return undefined;
  const queries: string[] = [];
  for (let index = 0; index < count; index++) queries.push(reader.text(reader.u32()));
  return reader.failed || reader.left !== 0 ? undefined : { name, queries };
}
