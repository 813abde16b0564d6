/** Extents of a block status, as they came. NBD proto, "NBD_REPLY_TYPE_BLOCK_STATUS". */
import { EXTENT_SIZE_32, EXTENT_SIZE_64, STATE_ZERO } from '../protocol.ts';
import { Breach } from './failures.ts';

const WORD = 2 ** 32;

/** u32 length and u32 flags each, or u64 both. */
export class Extents {
  readonly count: number;
  readonly #view: DataView;
  readonly #isWide: boolean;

  constructor(view: DataView, isWide: boolean) {
    this.#view = view;
    this.#isWide = isWide;
    this.count = view.byteLength / (isWide ? EXTENT_SIZE_64 : EXTENT_SIZE_32);
  }

  /** Bytes; above 2^53 rounded, which keeps it behind every end. */
  lengthOf(index: number): number {
    const view = this.#view;
    if (!this.#isWide) return view.getUint32(index * EXTENT_SIZE_32);
    const at = index * EXTENT_SIZE_64;
    return view.getUint32(at) * WORD + view.getUint32(at + 4);
  }

  /** It reads as zeroes, by base:allocation. */
  isZero(index: number): boolean {
    const at = this.#isWide ? index * EXTENT_SIZE_64 + 12 : index * EXTENT_SIZE_32 + 4;
    return (this.#view.getUint32(at) & STATE_ZERO) !== 0;
  }

  /** Only the last extent may reach the end of what was asked, and beyond. */
  check(askedBytes: number): void {
    let sum = 0;
    for (let index = 0; index < this.count; index++) {
      const length = this.lengthOf(index);
      if (length === 0) throw new Breach('it sends an extent of 0 bytes');
      if (sum >= askedBytes) throw new Breach('it sends extents behind what was asked for');
      sum += length;
    }
  }
}
