/** A qcow2 image in memory that is damaged on purpose, and where its parts are. */
import {
  HEADER_BACKING_FILE_OFFSET,
  HEADER_BACKING_FILE_SIZE,
  HEADER_L1_TABLE_OFFSET,
  HEADER_REFCOUNT_TABLE_OFFSET,
} from '../../../src/abi/qcow2.ts';

const ENTRY_OFFSET = 0x00ff_ffff_ffff_fe00n;

/** Bytes of an image; offsets and widths are bytes, numbers are big-endian. */
export class PokedImage {
  bytes: Buffer;

  constructor(bytes: Uint8Array) {
    this.bytes = Buffer.from(bytes);
  }

  u16(offset: number): number {
    return this.bytes.readUInt16BE(offset);
  }

  u32(offset: number): number {
    return this.bytes.readUInt32BE(offset);
  }

  u64(offset: number): bigint {
    return this.bytes.readBigUInt64BE(offset);
  }

  /** An offset that is a 64-bit field. */
  at(offset: number): number {
    return Number(this.u64(offset));
  }

  put8(offset: number, value: number): void {
    this.bytes.writeUInt8(value, offset);
  }

  put16(offset: number, value: number): void {
    this.bytes.writeUInt16BE(value, offset);
  }

  put32(offset: number, value: number): void {
    this.bytes.writeUInt32BE(value, offset);
  }

  put64(offset: number, value: bigint): void {
    this.bytes.writeBigUInt64BE(value, offset);
  }

  put(offset: number, bytes: string | Uint8Array): void {
    this.bytes.set(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes, offset);
  }

  /** Cuts the image, or extends it with zeroes. */
  truncate(sizeBytes: number): void {
    const longer = Buffer.alloc(Math.max(0, sizeBytes - this.bytes.length));
    this.bytes = Buffer.concat([this.bytes.subarray(0, sizeBytes), longer]);
  }

  /** Names another backing file, in place of the name that is there. */
  nameBacking(name: string): void {
    this.put(this.at(HEADER_BACKING_FILE_OFFSET), name);
    this.put32(HEADER_BACKING_FILE_SIZE, name.length);
  }

  /** Where the L1 table is. */
  get l1(): number {
    return this.at(HEADER_L1_TABLE_OFFSET);
  }

  /** Where the L2 table of the first L1 entry is. */
  get l2(): number {
    return Number(this.u64(this.l1) & ENTRY_OFFSET);
  }

  /** Where the refcount table is. */
  get refcountTable(): number {
    return this.at(HEADER_REFCOUNT_TABLE_OFFSET);
  }

  /** Where the first refcount block is. */
  get refcountBlock(): number {
    return Number(this.u64(this.refcountTable) & ~0x1ffn);
  }

  /** Where the data of the header extension of this type is; its length stands 4 bytes before. */
  extension(type: number): number {
    const word = Buffer.alloc(4);
    word.writeUInt32BE(type);
    const found = this.bytes.subarray(0, 4096).indexOf(word);
    if (found < 0) throw new Error(`the image has no extension 0x${type.toString(16)}`);
    return found + 8;
  }
}
