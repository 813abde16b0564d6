/**
 * The refcounts of an image that is written from its start to its end: clusters are taken one
 * after the other, so a refcount block is complete when the next one begins, and is written then.
 */
import { L2_ENTRY_BYTES, REFCOUNT_TABLE_BYTES_MAX } from '../../abi/qcow2.ts';
import { invalid } from '../../arguments.ts';
import { setRefcount } from './repair-refcounts.ts';

/** Writes bytes at an offset of the file, some time before the end. */
export type Emit = (offset: number, bytes: Uint8Array) => void;

/** Hands out clusters and counts what uses them. */
export class NewRefcounts {
  readonly #clusterBytes: number;
  readonly #bits: number;
  readonly #perBlock: number;
  readonly #emit: Emit;
  /** Of the blocks that are written. */
  readonly #blocks: number[] = [];
  /** Complete, but for the last cluster's uses; they take the next clusters. */
  readonly #complete: DataView[] = [];
  #block: DataView;
  #next = 0;
  /** Uses of the last cluster that was taken. */
  #uses = 0;

  constructor(clusterBytes: number, refcountBits: number, emit: Emit) {
    this.#clusterBytes = clusterBytes;
    this.#bits = refcountBits;
    this.#perBlock = (clusterBytes * 8) / refcountBits;
    this.#emit = emit;
    this.#block = new DataView(new ArrayBuffer(clusterBytes));
  }

  /** Where the file ends now. */
  get endBytes(): number {
    return this.#next * this.#clusterBytes;
  }

  /** The next cluster that is taken lies behind the last one. */
  get goesOn(): boolean {
    return this.#complete.length === 0;
  }

  /** The last cluster that was taken cannot be used by more. */
  get isLastFull(): boolean {
    return this.#uses === 2 ** this.#bits - 1;
  }

  /** Takes clusters that lie together, each used once; answers the offset of the first. */
  take(count: number): number {
    this.#placeComplete();
    const offset = this.endBytes;
    for (let left = count; left > 0; left--) this.#count();
    this.#uses = 1;
    return offset;
  }

  /** The last cluster that was taken is used once more. */
  useLastAgain(): void {
    this.#uses += 1;
    const last = this.#next - 1;
    const block = this.#next % this.#perBlock === 0 ? this.#complete.at(-1) : this.#block;
    if (block === undefined) throw new Error('no cluster was taken');
    setRefcount(block, last % this.#perBlock, this.#bits, this.#uses);
  }

  /** The refcount table and the last blocks. Nothing is taken afterwards. */
  finish(): { readonly tableOffset: number; readonly tableClusters: number } {
    this.#placeComplete();
    const first = this.#next;
    let blocks = 0;
    let tableClusters = 0;
    for (;;) {
      const end = first + tableClusters + blocks;
      const all = Math.ceil(end / this.#perBlock);
      const table = Math.ceil((all * L2_ENTRY_BYTES) / this.#clusterBytes);
      if (all - this.#blocks.length === blocks && table === tableClusters) break;
      blocks = all - this.#blocks.length;
      tableClusters = table;
    }
    const tableOffset = first * this.#clusterBytes;
    const places = Array.from(
      { length: blocks },
      (_, index) => tableOffset + (tableClusters + index) * this.#clusterBytes,
    );
    this.#countEnd(tableClusters + blocks, places);
    this.#emit(tableOffset, this.#table(tableClusters));
    return { tableOffset, tableClusters };
  }

  /** Counts what is left, in blocks whose places are known. */
  #countEnd(clusters: number, places: number[]): void {
    for (let left = clusters; left > 0; left--) this.#count();
    if (this.#next % this.#perBlock !== 0) this.#complete.push(this.#block);
    for (const block of this.#complete) this.#write(block, places.shift() as number);
  }

  #placeComplete(): void {
    for (let block = this.#complete.shift(); block !== undefined; block = this.#complete.shift()) {
      const offset = this.endBytes;
      this.#count();
      this.#write(block, offset);
    }
  }

  #count(): void {
    setRefcount(this.#block, this.#next % this.#perBlock, this.#bits, 1);
    this.#next += 1;
    if (this.#next % this.#perBlock !== 0) return;
    this.#complete.push(this.#block);
    this.#block = new DataView(new ArrayBuffer(this.#clusterBytes));
  }

  #write(block: DataView, offset: number): void {
    this.#blocks.push(offset);
    this.#emit(offset, new Uint8Array(block.buffer));
  }

  #table(clusters: number): Uint8Array {
    const bytes = new Uint8Array(clusters * this.#clusterBytes);
    if (bytes.length > REFCOUNT_TABLE_BYTES_MAX) {
      throw invalid('the image needs a refcount table that is too long; use larger clusters');
    }
    const view = new DataView(bytes.buffer);
    for (const [index, offset] of this.#blocks.entries()) {
      view.setBigUint64(index * L2_ENTRY_BYTES, BigInt(offset));
    }
    return bytes;
  }
}
