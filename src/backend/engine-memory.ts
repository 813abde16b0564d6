/**
 * The engine's memory as a backend sees it: where the bytes of a command are.
 *
 * `data` is the address of the bytes when `segments` is 1, of a table of {u32 address, u32
 * length} entries when it is more. Nothing here is trusted to lie inside the memory: a native
 * call would follow a wrong address anywhere, so every command is checked once with holds().
 */
import { SEGMENT_ADDRESS, SEGMENT_LENGTH, SEGMENT_SIZE } from '../abi/request.ts';

/** A READ or WRITE as backend.ts hands it over, in one piece. */
export interface DataCommand {
  readonly id: number;
  readonly offset: number;
  readonly length: number;
  readonly segments: number;
  readonly data: number;
}

/** Views of an engine's memory; valid while the memory does not grow. */
export class EngineMemory {
  /** The whole memory. */
  readonly bytes: Uint8Array;
  /** The same bytes, for the little-endian fields of tables. */
  readonly view: DataView;
  readonly #sizeBytes: number;

  constructor(buffer: ArrayBufferLike) {
    this.bytes = new Uint8Array(buffer);
    this.view = new DataView(buffer);
    this.#sizeBytes = this.bytes.length;
  }

  /** `length` bytes at `address` are inside. */
  contains(address: number, length: number): boolean {
    return address >= 0 && length >= 0 && address + length <= this.#sizeBytes;
  }

  /** The command's data is inside, and its segments add up to its length. */
  holds({ length, segments, data }: DataCommand): boolean {
    if (segments === 1) return this.contains(data, length);
    if (!this.contains(data, segments * SEGMENT_SIZE)) return false;
    let total = 0;
    for (let index = 0; index < segments; index++) {
      const segmentBytes = this.segmentLength(data, index);
      if (!this.contains(this.segmentAddress(data, index), segmentBytes)) return false;
      total += segmentBytes;
    }
    return total === length;
  }

  /** Address of the bytes of a table's entry. */
  segmentAddress(table: number, index: number): number {
    return this.view.getUint32(table + index * SEGMENT_SIZE + SEGMENT_ADDRESS, true);
  }

  /** Length of the bytes of a table's entry. */
  segmentLength(table: number, index: number): number {
    return this.view.getUint32(table + index * SEGMENT_SIZE + SEGMENT_LENGTH, true);
  }

  /** Every segment starts at a multiple of `addressGranule` and has whole `lengthGranule`s. */
  isAligned(command: DataCommand, addressGranule: number, lengthGranule: number): boolean {
    const { segments, data } = command;
    if (segments === 1) {
      return data % addressGranule === 0 && command.length % lengthGranule === 0;
    }
    for (let index = 0; index < segments; index++) {
      if (this.segmentAddress(data, index) % addressGranule !== 0) return false;
      if (this.segmentLength(data, index) % lengthGranule !== 0) return false;
    }
    return true;
  }

  /** The command's data after the first `skip` bytes, as views that are not empty. */
  views({ length, segments, data }: DataCommand, skip = 0): Uint8Array[] {
    if (segments === 1) return [this.bytes.subarray(data + skip, data + length)];
    const views: Uint8Array[] = [];
    let toSkip = skip;
    for (let index = 0; index < segments; index++) {
      const address = this.segmentAddress(data, index);
      const segmentBytes = this.segmentLength(data, index);
      const from = Math.min(toSkip, segmentBytes);
      toSkip -= from;
      if (from < segmentBytes) {
        views.push(this.bytes.subarray(address + from, address + segmentBytes));
      }
    }
    return views;
  }
}
