/** Memory for the transfers of simulated requests: each has bytes that no other one has. */

import * as abi from '../../src/abi/request.ts';
import { DATA_BASE, type Segment } from '../driver.ts';

/** How the bytes of a request lie. */
export interface Shape {
  readonly cells: number;
  /** Segments, and whether they lie apart in memory. */
  readonly pieces: number;
  readonly gap: boolean;
}

/** Hands out memory from DATA_BASE on, and takes nothing back. */
export class TransferMemory {
  readonly #view: DataView;
  readonly #cellBytes: number;
  #free = DATA_BASE;

  constructor(view: DataView, cellBytes: number) {
    this.#view = view;
    this.#cellBytes = cellBytes;
  }

  /** The memory of a request: pieces of one cell, and the last takes the rest. */
  place({ cells, pieces, gap }: Shape): Segment[] {
    const segments: Segment[] = [];
    for (let left = cells; left > 0 || segments.length === 0;) {
      const isLast = segments.length + 1 >= Math.min(pieces, cells);
      const length = (isLast ? left : 1) * this.#cellBytes;
      segments.push({ address: this.#allocate(length), length });
      if (gap) this.#allocate(this.#cellBytes);
      left -= length / this.#cellBytes;
    }
    return segments;
  }

  /** The memory of a BLOCK_STATUS; write zeroes and discard ignore theirs. */
  resultTable(): Segment[] {
    const address = this.#free;
    // Overlapping tables have addresses of their own: nothing is written into them.
    this.#free += abi.EXTENT_SIZE;
    return [{ address, length: 0 }];
  }

  /** Writes a segment table; returns its address. */
  tableOf(segments: readonly Segment[]): number {
    const table = this.#allocate(segments.length * abi.SEGMENT_SIZE);
    for (const [index, { address, length }] of segments.entries()) {
      const entry = table + index * abi.SEGMENT_SIZE;
      this.#view.setUint32(entry + abi.SEGMENT_ADDRESS, address, true);
      this.#view.setUint32(entry + abi.SEGMENT_LENGTH, length, true);
    }
    return table;
  }

  /** The address of each cell in these segments. */
  cellsOf(segments: readonly Segment[]): number[] {
    return segments.flatMap(({ address, length }) =>
      Array.from(
        { length: length / this.#cellBytes },
        (_, index) => address + index * this.#cellBytes,
      ),
    );
  }

  #allocate(bytes: number): number {
    const address = this.#free;
    this.#free += bytes;
    if (this.#free > this.#view.byteLength) throw new Error('the test needs more memory');
    return address;
  }
}
