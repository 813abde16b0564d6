/** A table of 32-bit sector numbers in an image: VHD's block table, VMDK's grain directory. */
import { SECTOR_SIZE } from '../abi/limits.ts';
import { SluiceError } from '../errors.ts';
import type { ImageFile } from './image-file.ts';
import { hex } from './qcow2/fields.ts';

/** Where a table lies, and how it is written. It was checked to lie inside the file. */
export interface EntryTablePlace {
  /** Of the table in the file, in bytes. */
  readonly offset: number;
  readonly entries: number;
  readonly littleEndian: boolean;
  /** The entry of what has no place. */
  readonly blank: number;
}

/** An entry, and the bytes in the file that it is the place of. */
export interface EntryTarget {
  /** For messages: `entry 5 of the block table`. */
  readonly entry: () => string;
  readonly sector: number;
  readonly length: number;
}

/** A range of the file, in bytes. */
export interface FileRange {
  readonly offset: number;
  readonly length: number;
}

const ENTRY_BYTES = 4;
/** Entries that are in memory. */
const PIECE_ENTRIES = 16_384;

/** A table, of which a piece is in memory. */
export class EntryTable {
  readonly #file: ImageFile;
  readonly #place: EntryTablePlace;
  #piece: DataView = new DataView(new ArrayBuffer(0));
  #first = 0;

  constructor(file: ImageFile, place: EntryTablePlace) {
    this.#file = file;
    this.#place = place;
  }

  /** The entry at `index`, and how many are like it from there on: more than 1 for blanks only. */
  async run(index: number): Promise<{ readonly sector: number; readonly count: number }> {
    const { blank } = this.#place;
    await this.#load(index);
    const sector = this.#entry(index);
    const end = this.#first + this.#piece.byteLength / ENTRY_BYTES;
    if (sector !== blank) return { sector, count: 1 };
    let next = index + 1;
    while (next < end && this.#entry(next) === blank) next++;
    return { sector, count: next - index };
  }

  #entry(index: number): number {
    return this.#piece.getUint32((index - this.#first) * ENTRY_BYTES, this.#place.littleEndian);
  }

  async #load(index: number): Promise<void> {
    const { offset, entries } = this.#place;
    const first = index - (index % PIECE_ENTRIES);
    if (this.#piece.byteLength > 0 && first === this.#first) return;
    const length = Math.min(PIECE_ENTRIES, entries - first) * ENTRY_BYTES;
    const bytes = await this.#file.read(offset + first * ENTRY_BYTES, length);
    this.#piece = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#first = first;
  }
}

/** Where the bytes of an entry begin: inside the file, and not in its metadata. */
export function placeOf(
  { sizeBytes }: ImageFile,
  { entry, sector, length }: EntryTarget,
  metadata: readonly FileRange[],
  path: string,
): number {
  const offset = sector * SECTOR_SIZE;
  const end = offset + length;
  const found = () => `${entry()} is ${hex(sector)}, bytes ${offset} to ${end} of the file`;
  if (end > sizeBytes) throw corrupt(path, `${found()}, which has ${sizeBytes}; it is cut off`);
  const hit = metadata.find((range) => offset < range.offset + range.length && range.offset < end);
  if (hit === undefined) return offset;
  throw corrupt(path, `${found()}, where its metadata is, at ${hit.offset}`);
}

function corrupt(path: string, found: string): SluiceError {
  const message = `${JSON.stringify(path)}: ${found}, or damaged there`;
  return new SluiceError('ERR_SLUICE_CORRUPT', message, { operation: 'read', path });
}
