/**
 * A persistent bitmap in memory, as it is stored.
 *
 * D1 A bitmap that records writes is not read of a disk that is open for writing: what is stored is
 *    marked "in use" then, and is not what was written.
 * D2 Memory is bounded by the file: a cluster that the table names twice is held once, and one of
 *    equal bits not at all.
 */
import type { DirtyMap } from '../../dirty-map.ts';
import { type ErrorCode, SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import { type Bitmap, readBitmapDirectory } from './bitmap-directory.ts';
import { hasBitAt, runEndAt } from './bitmap-bits.ts';
import { ALL_ONES, ALL_ZEROES, readBitmapTable } from './bitmap-table.ts';
import type { Qcow2Header } from './header.ts';

/** The bits of one cluster: bytes, or one value for all. */
type Bits = Uint8Array | boolean;

/** Bytes of bits that one call looks at. */
const SCANNED_BYTES = 4096;

/** The bits of a bitmap. */
export class DirtyBits implements DirtyMap {
  readonly granularityBytes: number;
  readonly #clusters: readonly Bits[];
  readonly #bitsEach: number;

  /** @param clusters of `clusterBytes`, in order */
  constructor(granularityBytes: number, clusterBytes: number, clusters: readonly Bits[]) {
    this.granularityBytes = granularityBytes;
    this.#clusters = clusters;
    this.#bitsEach = clusterBytes * 8;
  }

  isDirty(offset: number): boolean {
    const bit = Math.floor(offset / this.granularityBytes);
    const bits = this.#clusters[Math.floor(bit / this.#bitsEach)] ?? false;
    return typeof bits === 'boolean' ? bits : hasBitAt(bits, bit % this.#bitsEach);
  }

  runEnd(offset: number, end: number): number {
    const clusters = this.#clusters;
    const bit = Math.floor(offset / this.granularityBytes);
    let index = Math.floor(bit / this.#bitsEach);
    const bits = clusters[index];
    // Behind all bits.
    if (bits === undefined) return end;
    if (typeof bits === 'boolean') {
      while (clusters[index] === bits) index++;
      return Math.min(end, index * this.#bitsEach * this.granularityBytes);
    }
    const from = bit % this.#bitsEach;
    const to = runEndAt(bits, from, Math.min(this.#bitsEach, from + SCANNED_BYTES * 8));
    return Math.min(end, (bit + to - from) * this.granularityBytes);
  }
}

/**
 * Reads the bitmap of a name; undefined where the image has none.
 * @param isWritten the image is open for writing
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED (D1), ERR_SLUICE_CORRUPT
 */
export async function readDirtyBits(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  name: string,
  isWritten: boolean,
): Promise<DirtyBits | undefined> {
  const { bitmaps, problem } = await readBitmapDirectory(file, header, path);
  const bitmap = bitmaps.find((found) => found.name === name);
  if (bitmap === undefined) {
    if (problem === undefined) return undefined;
    throw damaged(path, problem);
  }
  const what = `its bitmap ${JSON.stringify(name)}`;
  if (isWritten && bitmap.auto) {
    const found = `${what} records what is written, and is stored when the disk is closed`;
    throw refused('ERR_SLUICE_UNSUPPORTED', path, found, 'open the disk read-only, or disable it');
  }
  if (header.bitmaps?.consistent !== true || bitmap.inUse) {
    throw refused('ERR_SLUICE_CORRUPT', path, `${what} is out of date`, 'remove it');
  }
  if (bitmap.problem !== undefined) throw damaged(path, bitmap.problem);
  const { entries, problem: wrong } = await readBitmapTable(file, header, bitmap);
  if (wrong !== undefined) throw damaged(path, wrong);
  return bitsOf(file, header, bitmap, entries);
}

async function bitsOf(
  file: ImageFile,
  { clusterBytes }: Qcow2Header,
  { granularityBits }: Bitmap,
  entries: readonly bigint[],
): Promise<DirtyBits> {
  const held = new Map<bigint, Bits>([
    [ALL_ZEROES, false],
    [ALL_ONES, true],
  ]);
  const clusters: Bits[] = [];
  for (const entry of entries) {
    const bits = held.get(entry) ?? shortened(await file.read(Number(entry), clusterBytes));
    held.set(entry, bits);
    clusters.push(bits);
  }
  return new DirtyBits(2 ** granularityBits, clusterBytes, clusters);
}

/** D2. */
function shortened(read: Uint8Array): Bits {
  const [first] = read;
  const isUniform = (first === 0 || first === 0xff) && read.every((byte) => byte === first);
  // What was read may lie in a buffer that is used again.
  return isUniform ? first === 0xff : read.slice();
}

function damaged(path: string, problem: string): SluiceError {
  return refused('ERR_SLUICE_CORRUPT', path, problem, 'check and repair the image first');
}

function refused(code: ErrorCode, path: string, found: string, advice: string): SluiceError {
  const message = `${JSON.stringify(path)}: ${found}; ${advice}`;
  return new SluiceError(code, message, { operation: 'bitmap', path });
}
