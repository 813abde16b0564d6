/** The result table of BLOCK_STATUS (abi/request.ts): building it, and writing it down. */
import {
  EXTENT_DEPTH,
  EXTENT_FLAGS,
  EXTENT_LENGTH,
  EXTENT_SIZE,
  EXTENT_TABLE_ENTRIES,
} from '../abi/request.ts';

const TWO_POW_32 = 4294967296;

/** One entry: length in bytes, and EXTENT_HOLE and the like as they apply. */
export interface Extent {
  readonly length: number;
  readonly flags: number;
  /** Default 0: of this file itself. */
  readonly depth?: number;
}

/** Writes the entries at `data`. */
export function writeExtents(view: DataView, data: number, extents: readonly Extent[]): void {
  for (const [index, { length, flags, depth = 0 }] of extents.entries()) {
    const entry = data + index * EXTENT_SIZE;
    view.setUint32(entry + EXTENT_LENGTH, length % TWO_POW_32, true);
    view.setUint32(entry + EXTENT_LENGTH + 4, Math.floor(length / TWO_POW_32), true);
    view.setUint32(entry + EXTENT_FLAGS, flags, true);
    view.setUint32(entry + EXTENT_DEPTH, depth, true);
  }
}

/** Collects stretches from a start to an end; equal neighbours become one extent. */
export class ExtentBuilder {
  readonly extents: Extent[] = [];
  /** Where the next stretch starts. */
  position: number;
  readonly #end: number;
  #stretches = 0;

  constructor(start: number, end: number) {
    this.position = start;
    this.#end = end;
  }

  /**
   * The end or the limit of the table is reached. Stretches are bounded too: empty ones could
   * come for ever from a file that somebody changes meanwhile.
   */
  get isFull(): boolean {
    const isTableFull = this.extents.length === EXTENT_TABLE_ENTRIES;
    return this.position >= this.#end || isTableFull || this.#stretches > STRETCHES;
  }

  /** The stretch from `position` to `stop`, which may be empty or reach past the end. */
  add(stop: number, flags: number): void {
    this.#stretches++;
    const length = Math.min(stop, this.#end) - this.position;
    if (length <= 0) return;
    this.position += length;
    const last = this.extents.at(-1);
    if (last?.flags === flags) {
      this.extents[this.extents.length - 1] = { length: last.length + length, flags };
    } else {
      this.extents.push({ length, flags });
    }
  }
}

const STRETCHES = 16 * EXTENT_TABLE_ENTRIES;
