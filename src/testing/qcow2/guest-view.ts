/**
 * What a guest reads from a qcow2 image, by the format's document alone: it shares nothing with the
 * engine or the checker, as it judges the first and agrees with the second.
 *
 * It reads images that the checker has nothing against. Encryption and zstd are left out.
 */
import { inflateRawSync } from 'node:zlib';

import {
  ENTRY_COMPRESSED_BIT,
  ENTRY_OFFSET_LAST_BIT,
  ENTRY_ZERO_BIT,
  SUBCLUSTERS,
} from '../../abi/qcow2.ts';
import type { Qcow2Header } from '../../image/qcow2/header.ts';
import { codeOf, SECTOR_WORDS, wordsOf } from './guest-sectors.ts';

const SECTOR_BYTES = 512;
const TWO_POW_32 = 4294967296;
/** Of the high word of an entry. */
const HIGH_OFFSET = 2 ** (ENTRY_OFFSET_LAST_BIT - 31) - 1;
const HIGH_COMPRESSED = 2 ** (ENTRY_COMPRESSED_BIT - 32);
const LOW_OFFSET = 0xfffffe00;
const LOW_ZERO = 2 ** ENTRY_ZERO_BIT;
/** The deflate window of any writer. */
const WINDOW_BITS = 15;

/** The files of an image, whole. Each begins on a border of words. */
export interface ImageBytes {
  readonly image: Uint8Array;
  /** The external data file. */
  readonly data?: Uint8Array | undefined;
  /** What the backing disk reads as. */
  readonly backing?: Uint8Array | undefined;
}

/** Where sectors lie: the words, and the first one of them; null: zeroes. */
interface Place {
  readonly words: Int32Array;
  readonly at: number;
}

/** Puts the code of each sector of the disk into `codes`. */
export function guestCodes(files: ImageBytes, header: Qcow2Header, codes: Int32Array): void {
  new GuestView(files, header).codesInto(codes);
}

class GuestView {
  readonly #header: Qcow2Header;
  readonly #image: Uint8Array;
  readonly #view: DataView;
  readonly #data: Int32Array;
  readonly #backing: Int32Array;

  constructor({ image, data, backing }: ImageBytes, header: Qcow2Header) {
    this.#header = header;
    this.#image = image;
    this.#view = new DataView(image.buffer, image.byteOffset, image.length);
    this.#data = wordsOf(data ?? image);
    this.#backing = wordsOf(backing ?? new Uint8Array(0));
  }

  codesInto(codes: Int32Array): void {
    const { clusterBytes, extendedL2, sizeBytes } = this.#header;
    const unitBytes = extendedL2 ? clusterBytes / SUBCLUSTERS : clusterBytes;
    const unitSectors = unitBytes / SECTOR_BYTES;
    const sectors = sizeBytes / SECTOR_BYTES;
    for (let from = 0; from < sectors; from += unitSectors) {
      const place = this.#placeOf(from * SECTOR_BYTES, unitBytes);
      const to = Math.min(from + unitSectors, sectors);
      for (let sector = from; sector < to; sector++) {
        codes[sector] = codeAt(place, sector - from, sector);
      }
    }
  }

  /** Where the bytes of a cluster or subcluster lie, which begins at `guest`. */
  #placeOf(guest: number, unitBytes: number): Place | null {
    const { clusterBytes, l2Entries, l1Offset, extendedL2 } = this.#header;
    const cluster = Math.floor(guest / clusterBytes);
    const inside = guest % clusterBytes;
    const table = this.#offsetAt(l1Offset + 8 * Math.floor(cluster / l2Entries));
    if (table === 0) return this.#backingAt(guest);
    const at = table + (cluster % l2Entries) * (extendedL2 ? 16 : 8);
    const high = this.#word(at);
    if ((high & HIGH_COMPRESSED) !== 0) return this.#inflated(at, inside);
    const offset = this.#offsetAt(at);
    if (extendedL2) {
      const bit = 1 << (inside / unitBytes);
      if ((this.#word(at + 8) & bit) !== 0) return null;
      if ((this.#word(at + 12) & bit) === 0) return this.#backingAt(guest);
    } else {
      if ((this.#word(at + 4) & LOW_ZERO) !== 0) return null;
      if (offset === 0 && !this.#isDataAtZero(high)) return this.#backingAt(guest);
    }
    return { words: this.#data, at: (offset + inside) / 4 };
  }

  /** In a data file the first cluster lies at offset 0: only COPIED tells that it is there. */
  #isDataAtZero(high: number): boolean {
    return this.#header.dataFile !== undefined && high >>> 31 === 1;
  }

  #backingAt(guest: number): Place {
    return { words: this.#backing, at: guest / 4 };
  }

  #inflated(at: number, inside: number): Place {
    const { clusterBits, clusterBytes } = this.#header;
    const offsetBits = 62 - (clusterBits - 8);
    const entry = this.#view.getBigUint64(at) & ((1n << 62n) - 1n);
    const offset = Number(entry & ((1n << BigInt(offsetBits)) - 1n));
    const sectors = Number(entry >> BigInt(offsetBits)) + 1;
    const end = offset - (offset % SECTOR_BYTES) + sectors * SECTOR_BYTES;
    const plain = new Uint8Array(clusterBytes);
    const options = { windowBits: WINDOW_BITS, maxOutputLength: clusterBytes };
    plain.set(inflateRawSync(this.#image.subarray(offset, end), options));
    return { words: wordsOf(plain), at: inside / 4 };
  }

  #offsetAt(at: number): number {
    const high = this.#word(at) & HIGH_OFFSET;
    return high * TWO_POW_32 + ((this.#word(at + 4) & LOW_OFFSET) >>> 0);
  }

  #word(at: number): number {
    return at + 4 <= this.#view.byteLength ? this.#view.getUint32(at) : 0;
  }
}

/** What lies past the end of a file reads as zeroes. */
function codeAt(place: Place | null, index: number, sector: number): number {
  if (place === null) return 0;
  const at = place.at + index * SECTOR_WORDS;
  return at < place.words.length ? codeOf(place.words, at, sector) : 0;
}
