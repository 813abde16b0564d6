/**
 * The engine's memory as a backend sees it: where the bytes of a command are.
 *
 * `data` is the address of the bytes when `segments` is 1, of a table of {u32 address, u32
 * length} entries when it is more. Nothing here is trusted to lie inside the memory: a native
 * call would follow a wrong address anywhere, so every command is checked once with holds().
 */
import { SEGMENT_ADDRESS, SEGMENT_LENGTH, SEGMENT_SIZE } from '../abi/request.ts';
import { SluiceError } from '../errors.ts';

/** A READ or WRITE as backend.ts hands it over, in one piece. */
export interface DataCommand {
  readonly id: number;
  readonly offset: number;
  readonly length: number;
  readonly segments: number;
  readonly data: number;
}

/**
 * Views of an engine's memory. Somebody else may grow it: an unshared buffer detaches then, so its
 * views go empty, and views of a shared one end where it ended. Each call looks out for that
 * first; what is returned holds until the next turn of the event loop. I/O that is under way when
 * it grows lands all the same: V8 grows memories in place, and Node keeps theirs.
 */
export class EngineMemory {
  readonly #memory: WebAssembly.Memory;
  #bytes: Uint8Array;
  #view: DataView;

  constructor(memory: WebAssembly.Memory) {
    this.#memory = memory;
    this.#bytes = new Uint8Array(memory.buffer);
    this.#view = new DataView(memory.buffer);
  }

  /** The whole memory. */
  get bytes(): Uint8Array {
    if (this.#bytes.length === 0) this.#renew();
    return this.#bytes;
  }

  /** The same bytes, for the little-endian fields of tables. */
  get view(): DataView {
    if (this.#bytes.length === 0) this.#renew();
    return this.#view;
  }

  /** `length` bytes at `address` are inside. */
  contains(address: number, length: number): boolean {
    if (address < 0 || length < 0) return false;
    if (address + length <= this.#bytes.length) return true;
    this.#renew();
    return address + length <= this.#bytes.length;
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
    return this.#view.getUint32(table + index * SEGMENT_SIZE + SEGMENT_ADDRESS, true);
  }

  /** Length of the bytes of a table's entry. */
  segmentLength(table: number, index: number): number {
    return this.#view.getUint32(table + index * SEGMENT_SIZE + SEGMENT_LENGTH, true);
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
    const { bytes } = this;
    if (segments === 1) return [bytes.subarray(data + skip, data + length)];
    const views: Uint8Array[] = [];
    let toSkip = skip;
    for (let index = 0; index < segments; index++) {
      const address = this.segmentAddress(data, index);
      const segmentBytes = this.segmentLength(data, index);
      const from = Math.min(toSkip, segmentBytes);
      toSkip -= from;
      if (from < segmentBytes) {
        views.push(bytes.subarray(address + from, address + segmentBytes));
      }
    }
    return views;
  }

  #renew(): void {
    const { buffer } = this.#memory;
    if (buffer === this.#bytes.buffer) return;
    this.#bytes = new Uint8Array(buffer);
    this.#view = new DataView(buffer);
  }
}

/** The memory of a backend that is not attached: nothing is inside. */
export function noMemory(): EngineMemory {
  return new EngineMemory(new WebAssembly.Memory({ initial: 0, maximum: 0 }));
}

/** Answers for a backend that has no memory yet. */
export function refuseBeforeAttach(): never {
  const message = 'a command was sent to a backend before attach(); attach an engine first';
  throw new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', message);
}
