/**
 * Memory of a front-end in the memory of the engine, without a copy:
 *
 *     0          floor                                              4 GiB
 *     | engine ... | region | free | region | inflight | free ...     |
 *
 * M1  What is mapped lies in its file: a page behind the end of it would kill this process
 *     (SIGBUS). A front-end that cuts its file afterwards still can; so can it kill QEMU's.
 * M2  A place that is given back holds zeroes again, so a late access harms nobody.
 */
import { fstatSync } from 'node:fs';

import { SluiceError } from '../errors.ts';
import { WASM_PAGE_SIZE } from '../place.ts';
import type { VhostNative } from './native.ts';
import { broken } from './protocol.ts';

/** A part of a file, mapped. */
export interface Mapping {
  /** Of the first byte that was asked for. */
  readonly address: number;
  release(): void;
}

interface Span {
  readonly start: number;
  readonly end: number;
}

const PAGE_BYTES = 4096;
const MEMORY_BYTES = 2 ** 32;

export class GuestMemory {
  readonly memory: WebAssembly.Memory;
  readonly #native: VhostNative;
  readonly #floor: number;
  /** In use, in order. */
  #spans: Span[] = [];

  /** Everything from `floor` on is free. The memory is shared, and may grow to 4 GiB. */
  constructor(memory: WebAssembly.Memory, floor: number, native: VhostNative) {
    this.memory = memory;
    this.#floor = floor;
    this.#native = native;
  }

  /**
   * Maps bytes of a file; the descriptor is not needed afterwards.
   * @throws SluiceError ERR_SLUICE_CONNECTION for a range that the file does not have, or that has
   *   no room
   */
  map(fd: number, fileOffset: bigint, sizeBytes: bigint): Mapping {
    const { size, blksize } = fstatSync(fd, { bigint: true });
    if (sizeBytes === 0n || fileOffset + sizeBytes > size) {
      const place = `at offset ${fileOffset} of a file of ${size}`;
      throw broken(`memory of ${sizeBytes} bytes ${place}`);
    }
    // Huge pages are mapped whole; the system says their size where files say their blocks'.
    const page = Math.max(PAGE_BYTES, Number(blksize));
    const offset = Number(fileOffset);
    const skipped = offset % page;
    const length = roundUp(skipped + Number(sizeBytes), page);
    const base = this.#native.addressOf(this.memory.buffer);
    const span = this.#reserve(length, page, base);
    try {
      this.#native.mapFile(base + span.start, length, fd, offset - skipped);
    } catch (error) {
      // What was there may be gone all the same.
      this.#release(span, base);
      throw unmappable(sizeBytes, error);
    }
    return { address: span.start + skipped, release: () => this.#release(span, base) };
  }

  /** The first gap that is large enough. Pages are the process's, where the memory is at `base`. */
  #reserve(length: number, page: number, base: number): Span {
    let start = roundUp(base + this.#floor, page) - base;
    let at = 0;
    for (const span of this.#spans) {
      if (start + length <= span.start) break;
      start = roundUp(base + span.end, page) - base;
      at += 1;
    }
    const end = start + length;
    const missing = end - this.memory.buffer.byteLength;
    if (end > MEMORY_BYTES) throw tooMuch(length);
    if (missing > 0) this.#grow(missing, length);
    const span = { start, end };
    this.#spans.splice(at, 0, span);
    return span;
  }

  #grow(missing: number, length: number): void {
    try {
      this.memory.grow(Math.ceil(missing / WASM_PAGE_SIZE));
    } catch (error) {
      if (error instanceof RangeError) throw tooMuch(length);
      throw error;
    }
  }

  #release(span: Span, base: number): void {
    this.#spans = this.#spans.filter((other) => other !== span);
    this.#native.mapNothing(base + span.start, span.end - span.start);
  }
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

function unmappable(sizeBytes: bigint, cause: unknown): SluiceError {
  return new SluiceError(
    'ERR_SLUICE_CONNECTION',
    `${sizeBytes} bytes of guest memory cannot be mapped (${(cause as Error).message}): its file ` +
      'must be open to read and write, and shared (share=on)',
    { cause },
  );
}

function tooMuch(length: number): SluiceError {
  return new SluiceError(
    'ERR_SLUICE_CONNECTION',
    `there is no room for ${length} bytes of guest memory: the engine addresses 4 GiB, of which ` +
      'it needs some itself, more with a larger metadata cache; give the VM less memory',
  );
}
