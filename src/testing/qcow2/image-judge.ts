/**
 * What a power cut may leave of an image, state by state, and what must be true of each:
 *
 * Q1 header   It opens: the header keeps the rules, and is marked neither corrupt nor dirty.
 * Q2 check    The checker finds leaks at most.
 * Q3 stale    No sector of the disk reads what lay in a free cluster, or what another sector holds.
 * Q4 leaks    When the image has been closed and nothing has failed, nothing is leaked anew.
 * Q5 snapshot What a snapshot holds never changes.
 * Q6          The rest is for the oracle, which gets the value of each sector.
 */
import { checkBytes } from '../../image/qcow2/check.ts';
import { parseHeader, type Qcow2Header } from '../../image/qcow2/header.ts';
import { INITIAL, OLDER } from '../history.ts';
import { Random } from '../random.ts';
import { RuleBroken } from '../rule-broken.ts';
import type { CrashState, SimulatedDisk } from '../simulated-disk.ts';
import { FOREIGN, GARBAGE, STALE } from './guest-sectors.ts';
import { guestCodes, type ImageBytes } from './guest-view.ts';
import type { BuiltImage } from './image-builder.ts';

/** The files that may lose what is not stable. */
export interface JudgedDisks {
  readonly image: SimulatedDisk;
  readonly data?: SimulatedDisk | undefined;
}

/** Judges the codes of the disk's sectors; throws when they cannot be. */
export type CodeCheck = (codes: Int32Array) => void;

/** What came before the process that is looked at: a power cut may bring it back. */
export interface Elder {
  /** True when a sector may hold this code after a power cut. */
  mayHold(code: number, sector: number): boolean;
}

/** For people. */
const MOST_FINDINGS = 5;
/** No value of any write. */
const NOBODYS = -20;
/** Contents that were judged, and the codes that were found. Equal contents come often. */
const MOST_KNOWN = 4096;

/** See the head of the file. Broken rules are thrown as RuleBroken. */
export class ImageJudge {
  readonly #first: BuiltImage;
  readonly #base: number;
  readonly #elder: Elder | undefined;
  readonly #known = new Map<string, Int32Array>();
  readonly #random = new Random(1);

  /**
   * @param first the image as it was before the first request
   * @param base what codes are above the numbers of writes
   * @param elder what came before, when that is not all stable
   */
  constructor(first: BuiltImage, base = 0, elder?: Elder) {
    this.#first = first;
    this.#base = base;
    this.#elder = elder;
  }

  /** The value for the oracle of a sector with this code; zeroes may be new ones (Q3). */
  valueOf(code: number, sector: number, zeroed = true): number {
    if (code === STALE) throw stale(sector, 'what lay in a free cluster of the host');
    if (code === FOREIGN) throw stale(sector, 'what was written to another sector');
    if (code === this.#first.codes[sector]) return code === 0 ? 0 : INITIAL;
    if (code === GARBAGE) return code;
    if (code > this.#base) return code - this.#base;
    const isOlder = !(code === 0 && zeroed) && this.#elder?.mayHold(code, sector) === true;
    if (isOlder) return OLDER;
    return code === 0 ? 0 : NOBODYS;
  }

  /**
   * Looks at states that a power cut now may leave, at most `limit`; returns how many there were.
   * Those of two files are combined, all of them or by chance.
   */
  look({ image, data }: JudgedDisks, limit: number, check: CodeCheck): number {
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
    if (corruptions > 0 || checkErrors > 0) {
      throw new RuleBroken('check', findings.slice(0, MOST_FINDINGS).join('; '));
    }
    const codes = new Int32Array(this.#first.codes.length);
    guestCodes(files, header, codes);
    this.#checkSnapshot(files, header);
    return codes;
  }

  /** Q5. */
  #checkSnapshot(files: ImageBytes, header: Qcow2Header): void {
    const { frozen } = this.#first;
    if (frozen === undefined) return;
    const { buffer, byteOffset } = files.image;
    const l1Offset = Number(new DataView(buffer, byteOffset).getBigUint64(header.snapshotsOffset));
    const codes = new Int32Array(frozen.length);
    guestCodes(files, { ...header, l1Offset }, codes);
    const sector = codes.findIndex((code, index) => code !== frozen[index]);
    if (sector >= 0) throw new RuleBroken('snapshot', `sector ${sector} of the snapshot changes`);
  }

  /** The image was closed, and nothing has failed (Q4). */
  checkClosed(image: Uint8Array): void {
    const now = checkBytes(image, soundHeader(image));
    // A power cut may have left counts of clusters behind the end of the file.
    const first = new Uint8Array(image.length);
    first.set(this.#first.image);
    const before = checkBytes(first, soundHeader(first));
    if (now.leaks <= before.leaks) return;
    const known = new Set(before.findings.map(String));
    const fresh = now.findings.map(String).filter((finding) => !known.has(finding));
    const text = `${now.leaks} leaks after closing, and ${before.leaks} at first`;
    throw new RuleBroken('leaks', `${text}: ${fresh.join('; ')}`);
  }

  #judge(image: CrashState, data: CrashState | undefined, check: CodeCheck): void {
    try {
      check(this.#knownCodes(image, data));
    } catch (error) {
      if (!(error instanceof RuleBroken)) throw error;
      const left = data === undefined ? image.name : `${image.name}; data file: ${data.name}`;
      throw new RuleBroken(error.rule, `${error.message} (the power cut left ${left})`);
    }
  }

  #knownCodes(image: CrashState, data: CrashState | undefined): Int32Array {
    const key = `${image.fingerprint()} ${data?.fingerprint()}`;
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const codes = this.codesOf({
      image: image.contents(),
      data: data?.contents(),
      backing: this.#first.backing,
    });
    if (this.#known.size === MOST_KNOWN) this.#known.clear();
    this.#known.set(key, codes);
    return codes;
  }
}

function statesOf(disk: SimulatedDisk, limit: number): CrashState[] {
  return [...disk.crashStates({ limit })];
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
