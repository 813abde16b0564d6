/** Where the bytes of commands lie in this process: addresses, and vectors (struct iovec). */
import type { DataCommand, EngineMemory } from './engine-memory.ts';
import { EFAULT } from './errno.ts';
import type { Native } from './native.ts';

/** The kernel's limit of a vector (IOV_MAX); what is beyond it comes out as a short count. */
export const VECTOR_ENTRIES = 1024;
/** struct iovec on 64-bit systems, in 32-bit words: address low, high, length low, high. */
const IOVEC_WORDS = 4;
const IOVEC_SIZE = 16;
const TWO_POW_32 = 4294967296;

export class IoVectors {
  readonly #memory: EngineMemory;
  readonly #native: Native;
  /** What `#base` is the address of: other views after the memory has grown. */
  #bytes: Uint8Array;
  #base: number;
  readonly #vector = new Uint32Array(new ArrayBuffer(VECTOR_ENTRIES * IOVEC_SIZE));
  readonly #vectorAddress: number;

  constructor(memory: EngineMemory, native: Native) {
    this.#memory = memory;
    this.#native = native;
    this.#bytes = memory.bytes;
    this.#base = native.addressOf(this.#bytes);
    this.#vectorAddress = native.addressOf(new Uint8Array(this.#vector.buffer));
  }

  /** The address in this process of a byte of the memory. */
  addressOf(data: number): number {
    this.#locate();
    return this.#base + data;
  }

  /** The address in this process of an entry. */
  entryAddress(index: number): number {
    return this.#vectorAddress + index * IOVEC_SIZE;
  }

  /**
   * Fills the entries from `first` on and returns their number, or -EFAULT. The table is read again
   * here, and what is read now is only followed inside the memory. Segments for which there is no
   * entry are left out.
   */
  fill({ length, segments, data }: DataCommand, first = 0): number {
    this.#locate();
    if (segments === 1) {
      this.#setEntry(first, data, length);
      return 1;
    }
    const memory = this.#memory;
    const count = Math.min(segments, VECTOR_ENTRIES - first);
    for (let index = 0; index < count; index++) {
      const address = memory.segmentAddress(data, index);
      const segmentBytes = memory.segmentLength(data, index);
      if (!memory.contains(address, segmentBytes)) return -EFAULT;
      this.#setEntry(first + index, address, segmentBytes);
    }
    return count;
  }

  #locate(): void {
    const { bytes } = this.#memory;
    if (bytes === this.#bytes) return;
    this.#bytes = bytes;
    this.#base = this.#native.addressOf(bytes);
  }

  #setEntry(index: number, address: number, length: number): void {
    const word = index * IOVEC_WORDS;
    const native = this.#base + address;
    this.#vector[word] = native;
    this.#vector[word + 1] = native / TWO_POW_32;
    this.#vector[word + 2] = length;
  }
}
