/**
 * The bytes of a simulated disk. What survives is the business of SectorImage, whose values are
 * numbers; here each number that lives in it stands for the 512 bytes of a sector.
 *
 *   0           zeroes
 *   ANYTHING    what a discard leaves: bytes that nobody wrote, the same at every look
 *   1, 2, ...   contents in a table; equal contents have the same number
 */
import { Hash } from './content-hash.ts';
import { Random } from './random.ts';
import { ANYTHING, SectorImage } from './sector-image.ts';
import { SECTOR_BYTES } from './simulated-disk-options.ts';

const ZEROES = 0;
/** Not Latin-1 but windows-1252, which has a character for each byte, too. */
const DECODER = new TextDecoder('latin1');
/** Contents that nothing refers to any more are dropped when there are this many at least. */
const SMALLEST_SWEEP = 1024;

const NO_HASH = { one: 0, other: 0 };

/** The bytes of a sector; copies of a disk share them, and what was found out about them. */
interface Content {
  readonly bytes: Uint8Array;
  hash: Hash | undefined;
}

function hashOf(bytes: Uint8Array): Hash {
  return new Hash(bytes.length).addBytes(bytes);
}

/** The values that sectors hold after a power cut, for the sectors that are not certain. */
export type SectorValues = ReadonlyMap<number, number>;

/** An image and its bytes. Offsets and lengths are bytes and inside the disk. */
export class SectorBytes {
  readonly image: SectorImage;
  readonly #seed: number;
  #contents = new Map<number, Content>();
  /** The same the other way round, the bytes as text. */
  #numbers = new Map<string, number>();
  #lastValue = 0;
  #sweepAt = SMALLEST_SWEEP;

  /** `seed`: for the bytes that a discard leaves. */
  constructor(image: SectorImage, seed: number) {
    this.image = image;
    this.#seed = seed;
  }

  /** A disk with these contents, stable, and zeroes behind them. */
  static holding(sizeBytes: number, contents: Uint8Array, seed: number): SectorBytes {
    const image = new SectorImage({ sectors: sizeBytes / SECTOR_BYTES });
    const bytes = new SectorBytes(image, seed);
    bytes.beginWrite(0, 0, contents);
    image.completeWrite(0, true);
    return bytes;
  }

  /** What reads see. */
  read(offset: number, length: number): Uint8Array {
    return this.#gather(offset, length, (sector) => this.image.now(sector));
  }

  /** What a power cut leaves that leaves these values; other sectors hold what is stable. */
  contentsAfter(values: SectorValues, sizeBytes: number): Uint8Array {
    return this.#gather(0, sizeBytes, (sector) => values.get(sector) ?? this.image.stable(sector));
  }

  /** Equal for equal contents, on any disk, and found without putting them together. */
  fingerprintAfter(values: SectorValues, sizeBytes: number): string {
    const hash = new Hash(sizeBytes);
    const end = Math.ceil(sizeBytes / SECTOR_BYTES);
    for (let sector = 0; sector < end; sector++) {
      const value = values.get(sector) ?? this.image.stable(sector);
      const { one, other } = value === ZEROES ? NO_HASH : this.#hashOf(value, sector);
      hash.add(one);
      hash.add(other);
    }
    return hash.toString();
  }

  /** A write is handed to the disk. Of a sector that it covers in part the rest is as now. */
  beginWrite(id: number, offset: number, bytes: Uint8Array): void {
    this.#begin(id, offset, bytes.length, (sector, from, to) => {
      const start = sector * SECTOR_BYTES;
      const part = bytes.subarray(start + from - offset, start + to - offset);
      return this.#valueOf(sector, from, part);
    });
  }

  beginZeroes(id: number, offset: number, length: number): void {
    this.#begin(id, offset, length, (sector, from, to) =>
      this.#valueOf(sector, from, new Uint8Array(to - from)),
    );
  }

  /** Sectors that the range covers in part are left alone. */
  beginDiscard(id: number, offset: number, length: number): void {
    const first = Math.ceil(offset / SECTOR_BYTES);
    const end = Math.max(first, Math.floor((offset + length) / SECTOR_BYTES));
    this.image.beginDiscard(id, first, end - first);
  }

  /** A copy that goes its own way. */
  clone(): SectorBytes {
    const copy = new SectorBytes(this.image.clone(), this.#seed);
    copy.#contents = new Map(this.#contents);
    copy.#numbers = new Map(this.#numbers);
    copy.#lastValue = this.#lastValue;
    copy.#sweepAt = this.#sweepAt;
    return copy;
  }

  #begin(
    id: number,
    offset: number,
    length: number,
    valueOf: (sector: number, from: number, to: number) => number,
  ): void {
    this.#sweep();
    const first = Math.floor(offset / SECTOR_BYTES);
    const end = length === 0 ? first : Math.ceil((offset + length) / SECTOR_BYTES);
    const values = Array.from({ length: end - first }, (_, index) => {
      const start = (first + index) * SECTOR_BYTES;
      const from = Math.max(0, offset - start);
      return valueOf(first + index, from, Math.min(SECTOR_BYTES, offset + length - start));
    });
    this.image.beginWrite(id, first, values);
  }

  /** The number for what the sector holds once `part` lies at `from` in it. */
  #valueOf(sector: number, from: number, part: Uint8Array): number {
    const bytes = new Uint8Array(SECTOR_BYTES);
    if (part.length < SECTOR_BYTES) bytes.set(this.#bytesOf(this.image.now(sector), sector));
    bytes.set(part, from);
    if (new Int32Array(bytes.buffer).every((word) => word === 0)) return ZEROES;
    const text = DECODER.decode(bytes);
    const known = this.#numbers.get(text);
    if (known !== undefined) return known;
    this.#lastValue += 1;
    this.#contents.set(this.#lastValue, { bytes, hash: undefined });
    this.#numbers.set(text, this.#lastValue);
    return this.#lastValue;
  }

  #gather(offset: number, length: number, valueAt: (sector: number) => number): Uint8Array {
    const bytes = new Uint8Array(length);
    const end = offset + length;
    for (let sector = Math.floor(offset / SECTOR_BYTES); sector * SECTOR_BYTES < end; sector++) {
      const value = valueAt(sector);
      if (value === ZEROES) continue;
      const start = sector * SECTOR_BYTES;
      const from = Math.max(start, offset);
      const part = this.#bytesOf(value, sector).subarray(from - start, end - start);
      bytes.set(part, from - offset);
    }
    return bytes;
  }

  #bytesOf(value: number, sector: number): Uint8Array {
    const known = this.#contents.get(value);
    if (known !== undefined) return known.bytes;
    const bytes = new Uint8Array(SECTOR_BYTES);
    if (value !== ANYTHING) return bytes;
    const random = new Random(this.#seed + sector);
    for (let at = 0; at < SECTOR_BYTES; at++) bytes[at] = random.below(256);
    return bytes;
  }

  #hashOf(value: number, sector: number): Hash {
    const content = this.#contents.get(value);
    if (content === undefined) return hashOf(this.#bytesOf(value, sector));
    content.hash ??= hashOf(content.bytes);
    return content.hash;
  }

  /** Drops the contents that no sector can hold any more. */
  #sweep(): void {
    if (this.#contents.size < this.#sweepAt) return;
    const living = new Map<number, Content>();
    const values: number[] = [];
    for (let sector = 0; sector < this.image.sectors; sector++) {
      const count = this.image.survivorsInto(sector, values);
      for (const value of [...values.slice(0, count), this.image.now(sector)]) {
        const content = this.#contents.get(value);
        if (content !== undefined) living.set(value, content);
      }
    }
    this.#contents = living;
    this.#numbers = new Map(
      Array.from(living, ([value, { bytes }]) => [DECODER.decode(bytes), value]),
    );
    this.#sweepAt = Math.max(SMALLEST_SWEEP, 2 * living.size);
  }
}
