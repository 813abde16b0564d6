/**
 * What a power cut may leave of an image, state by state, and what must be true of each:
 *
 * Q1 header   It opens: the header keeps the rules, and is marked neither corrupt nor dirty.
 * Q2 check    The checker finds leaks at most.
 * Q3 stale    No sector of the disk reads what lay in a free cluster, or what another sector holds.
 * Q4          The rest is for the oracle, which gets the value of each sector.
 */
import { checkBytes } from '../../image/qcow2/check.ts';
import { parseHeader, type Qcow2Header } from '../../image/qcow2/header.ts';
import { INITIAL } from '../history.ts';
import { Random } from '../random.ts';
import { RuleBroken } from '../rule-broken.ts';
import type { SimulatedDisk } from '../simulated-disk.ts';
import { FOREIGN, STALE, wordsOf } from './guest-sectors.ts';
import { guestCodes, type ImageBytes } from './guest-view.ts';
import type { BuiltImage } from './image-builder.ts';

/** The files that may lose what is not stable. */
export interface JudgedDisks {
  readonly image: SimulatedDisk;
  readonly data?: SimulatedDisk | undefined;
}

/** Judges the values of the disk's sectors; throws when they cannot be. */
export type ValueCheck = (values: Int32Array) => void;

/** The value of what was gone before the first request. */
const OLD_WRITE = -20;
/** Contents that were judged, and the values that were found. Equal contents come often. */
const MOST_KNOWN = 4096;

/** See the head of the file. Broken rules are thrown as RuleBroken. */
export class ImageJudge {
  readonly #first: BuiltImage;
  readonly #base: number;
  readonly #known = new Map<string, Int32Array>();
  readonly #random = new Random(1);

  /**
   * @param first the image as it was before the first request
   * @param base what codes are above the numbers of writes
   */
  constructor(first: BuiltImage, base = 0) {
    this.#first = first;
    this.#base = base;
  }

  /** The value for the oracle of a sector with this code (Q3). */
  valueOf(code: number, sector: number): number {
    if (code === STALE) throw stale(sector, 'what lay in a free cluster of the host');
    if (code === FOREIGN) throw stale(sector, 'what was written to another sector');
    if (code === this.#first.codes[sector] && code !== 0) return INITIAL;
    if (code <= 0) return code;
    return code > this.#base ? code - this.#base : OLD_WRITE;
  }

  /**
   * Looks at states that a power cut now may leave, at most `limit`; returns how many there were.
   * Those of two files are combined, all of them or by chance.
   */
  look({ image, data }: JudgedDisks, limit: number, check: ValueCheck): number {
    const images = statesOf(image, limit);
    const datas = data === undefined ? [undefined] : statesOf(data, limit);
    const all = images.length * datas.length;
    const states = Math.min(all, limit);
    for (let state = 0; state < states; state++) {
      const pair = all > limit ? this.#random.below(all) : state;
      const left = images[Math.floor(pair / datas.length)];
      if (left !== undefined) this.#judge(left, datas[pair % datas.length], check);
    }
    return states;
  }

  /** Codes of the disk's sectors (Q1, Q2). */
  codesOf(files: ImageBytes): Int32Array {
    const header = soundHeader(files.image);
    const { corruptions, checkErrors, findings } = checkBytes(files.image, header);
    if (corruptions > 0 || checkErrors > 0) throw new RuleBroken('check', String(findings[0]));
    const codes = new Int32Array(this.#first.codes.length);
    guestCodes(files, header, codes);
    return codes;
  }

  #judge(image: FileState, data: FileState | undefined, check: ValueCheck): void {
    try {
      check(this.#valuesOf(image.bytes, data?.bytes));
    } catch (error) {
      if (!(error instanceof RuleBroken)) throw error;
      const left = data === undefined ? image.name : `${image.name}; data file: ${data.name}`;
      throw new RuleBroken(error.rule, `${error.message} (the power cut left ${left})`);
    }
  }

  #valuesOf(image: Uint8Array, data: Uint8Array | undefined): Int32Array {
    const key = data === undefined ? hashOf(image) : `${hashOf(image)} ${hashOf(data)}`;
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const values = this.codesOf({ image, data, backing: this.#first.backing });
    for (const [sector, code] of values.entries()) values[sector] = this.valueOf(code, sector);
    if (this.#known.size === MOST_KNOWN) this.#known.clear();
    this.#known.set(key, values);
    return values;
  }
}

interface FileState {
  readonly name: string;
  readonly bytes: Uint8Array;
}

function statesOf(disk: SimulatedDisk, limit: number): FileState[] {
  return Array.from(disk.crashStates({ limit }), (state) => ({
    name: state.name,
    bytes: state.contents(),
  }));
}

/** Q1. */
function soundHeader(image: Uint8Array): Qcow2Header {
  let header: Qcow2Header;
  try {
    header = parseHeader(image, 'the image');
  } catch (error) {
    throw new RuleBroken('header', error instanceof Error ? error.message : String(error));
  }
  if (header.corrupt) throw new RuleBroken('header', 'the image is marked corrupt');
  if (header.dirty) throw new RuleBroken('header', 'the image is marked dirty');
  return header;
}

function stale(sector: number, what: string): RuleBroken {
  return new RuleBroken('stale', `sector ${sector} of the disk reads ${what}`);
}

const FNV_PRIME = 0x0100_0193;
const OTHER_PRIME = 0x85eb_ca6b;

/** 64 bits: enough that no two contents of a run meet. */
function hashOf(bytes: Uint8Array): string {
  let one = bytes.length | 0;
  let other = ~one;
  for (const word of wordsOf(bytes)) {
    one = Math.imul(one ^ word, FNV_PRIME);
    one ^= one >>> 15;
    other = Math.imul(other + word, OTHER_PRIME);
    other ^= other >>> 13;
  }
  return `${one} ${other}`;
}
