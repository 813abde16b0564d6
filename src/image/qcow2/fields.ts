/** Fields of an image's metadata, and how a wrong one is refused. */
import { type ErrorCode, SluiceError } from '../../errors.ts';

/** The metadata that is being read: what it is, and where it lies in which file. */
export interface Source {
  readonly path: string;
  /** For messages: `the header`, `the snapshot table`. */
  readonly what: string;
  /** Byte offset in the file. */
  readonly offset: number;
}

/** Names and paths must be whole texts: what is half read may name another file. */
const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

const LOSSY = new TextDecoder('utf-8', { ignoreBOM: true });
/** Control characters, and what LOSSY puts for bytes that are no UTF-8. */
const NOT_IN_LABELS = /[\p{Cc}\uFFFD]/u;

/**
 * Bytes with the names of their fields. Offsets count from where the bytes begin. Numbers are
 * big-endian unless it is said otherwise.
 */
export class Fields {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  readonly #source: Source;
  readonly #littleEndian: boolean;

  constructor(bytes: Uint8Array, source: Source, littleEndian = false) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#source = source;
    this.#littleEndian = littleEndian;
  }

  u8(offset: number): number {
    return this.#view.getUint8(offset);
  }

  u16(offset: number): number {
    return this.#view.getUint16(offset, this.#littleEndian);
  }

  u32(offset: number): number {
    return this.#view.getUint32(offset, this.#littleEndian);
  }

  u64(offset: number): bigint {
    return this.#view.getBigUint64(offset, this.#littleEndian);
  }

  /** A 64-bit number that counts bytes: no file and no disk that can be opened has 2^53. */
  byteCount(offset: number, name: string): number {
    const value = this.u64(offset);
    if (value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
    throw this.refusal(offset, `${name} is ${hex(value)}; nothing past 2^53 bytes can be opened`);
  }

  /** Where a table of `length` bytes begins: at a cluster, and not past 2^53 bytes. */
  tableOffset(offset: number, name: string, clusterBytes: number, length = 0): number {
    const value = this.byteCount(offset, name);
    if (value % clusterBytes !== 0) {
      const rule = `it must be a multiple of the cluster size, ${clusterBytes}`;
      throw this.refusal(offset, `${name} is ${hex(value)}; ${rule}`);
    }
    if (Number.isSafeInteger(value + length)) return value;
    throw this.refusal(offset, `${name} is ${hex(value)}; its ${length} bytes end past 2^53`);
  }

  /** A text without NUL, in UTF-8. */
  text(offset: number, length: number, name: string): string {
    const bytes = this.bytes.subarray(offset, offset + length);
    const nul = bytes.indexOf(0);
    if (nul >= 0) {
      throw this.refusal(offset, `${name} of ${length} bytes has a NUL at its byte ${nul}`);
    }
    try {
      return UTF8.decode(bytes);
    } catch (cause) {
      throw this.refusal(offset, `${name} of ${length} bytes is not UTF-8`, undefined, cause);
    }
  }

  /** A name for people, and whether it is whole: UTF-8 without control characters. */
  label(offset: number, length: number): { readonly text: string; readonly isWhole: boolean } {
    const text = LOSSY.decode(this.bytes.subarray(offset, offset + length));
    return { text, isWhole: !NOT_IN_LABELS.test(text) };
  }

  /** What is wrong at `offset`, as a text. */
  describe(offset: number, found: string): string {
    return `${this.#source.what}, at offset ${this.#source.offset + offset}: ${found}`;
  }

  /** The error for what stands at `offset`. */
  refusal(
    offset: number,
    found: string,
    code: ErrorCode = 'ERR_SLUICE_IMAGE',
    cause?: unknown,
  ): SluiceError {
    const { path, offset: from } = this.#source;
    const at = from + offset;
    const message = `cannot use ${JSON.stringify(path)}: ${this.describe(offset, found)}`;
    return new SluiceError(code, message, { operation: 'open', path, offset: at, cause });
  }
}

/** A number as the format's documents write offsets and masks. */
export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

/** Bit `bit` of a field of flags is set. */
export function hasBit(flags: number | bigint, bit: number): boolean {
  return ((BigInt(flags) >> BigInt(bit)) & 1n) === 1n;
}
