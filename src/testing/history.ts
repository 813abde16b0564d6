/**
 * The requests of a guest in submission order and what has become of them: what everybody who
 * judges an engine agrees on. A request's number, from 1, is also the value of what it writes.
 */
import {
  OP_DISCARD,
  OP_RESET,
  OP_SET_WCE,
  OP_WRITE,
  REQUEST_FUA,
  STATUS_ABORTED,
  STATUS_OK,
} from '../abi/request.ts';
import { RuleBroken } from './rule-broken.ts';
import { ANYTHING } from './sector-image.ts';
import { describeRequest, type GuestRequest, isWriteClass, nameOf } from './stream.ts';

/** What every sector holds at first: an earlier process wrote it and did not flush. */
export const INITIAL = -2;
/** What was stable before that. */
export const OLDER = -3;

/** The status of a request that has not completed. */
export const OPEN = -1;

/** What the history must know of the disk. */
export interface HistoryOptions {
  /** Requests of the longest history; default 64. */
  readonly requests?: number;
  /** Writes start in the volatile class. */
  readonly wce: boolean;
  /** Nothing is ever promised to be stable; default false. */
  readonly noFlush?: boolean;
  /** Sectors that hold zeroes at first: nobody can tell them from zeroes that were written. */
  readonly zeroAtFirst?: (sector: number) => boolean;
}

/** See the head of the file. */
export class History {
  readonly #requests: GuestRequest[] = [];
  /** The number of requests, then the status of each. */
  readonly #words: Int32Array;
  readonly #wce: boolean;
  readonly #noFlush: boolean;
  readonly #zeroAtFirst: (sector: number) => boolean;

  constructor({ requests = 64, wce, noFlush = false, zeroAtFirst }: HistoryOptions) {
    this.#words = new Int32Array(1 + requests);
    this.#wce = wce;
    this.#noFlush = noFlush;
    this.#zeroAtFirst = zeroAtFirst ?? (() => false);
  }

  /** Becomes a copy of a history with the same options. */
  copyFrom(other: History): void {
    this.#words.set(other.#words);
    const { count } = other;
    for (let index = 0; index < count; index++) {
      const request = other.#requests[index];
      if (request !== undefined) this.#requests[index] = request;
    }
  }

  /** Requests submitted so far: the number of the last one. */
  get count(): number {
    return this.#words[0] ?? 0;
  }

  /** The next request is submitted; returns its number. */
  submit(request: GuestRequest): number {
    const number = this.count + 1;
    if (number >= this.#words.length) {
      throw new RangeError(`a history of more than ${number - 1} requests`);
    }
    this.#requests[number - 1] = request;
    this.#words[0] = number;
    this.#words[number] = OPEN;
    return number;
  }

  /** The request with this number has completed. */
  complete(number: number, status: number): void {
    this.#words[number] = status;
  }

  /** @throws {RuleBroken} when there is none with this number */
  request(number: number): GuestRequest {
    const request = number > this.count ? undefined : this.#requests[number - 1];
    if (request === undefined) throw new RuleBroken('once', `request ${number} never was`);
    return request;
  }

  /** The status with which the request has completed, or OPEN. */
  statusOf(number: number): number {
    return this.#words[number] ?? OPEN;
  }

  /** True until the request completes. */
  isOpen(number: number): boolean {
    return this.#words[number] === OPEN;
  }

  /** True when the request must be stable before it completes: FUA, or no write cache. */
  isStable(number: number): boolean {
    return this.#classOf(number) === 'stable';
  }

  /** True when nothing asks for the request to be stable before it completes. */
  isVolatile(number: number): boolean {
    return this.#classOf(number) === 'volatile';
  }

  /** True when the sector may hold the value once all up to write `floor` is stable. */
  mayHold(sector: number, value: number, floor: number): boolean {
    if (this.hasWritten(sector, value, Math.max(1, floor), true)) return true;
    return (floor <= 0 && this.#wasFirst(sector, value)) || (floor < 0 && value === OLDER);
  }

  /** True when a write from `first` on has the value; `anything`: a discard has every one. */
  hasWritten(sector: number, value: number, first: number, anything = false): boolean {
    for (let number = this.count; number >= first && number >= 1; number--) {
      const write = this.request(number);
      if (!touches(write, sector)) continue;
      if ((anything && write.op === OP_DISCARD) || contentOf(write, number) === value) return true;
    }
    return false;
  }

  /** True when submission order allows the read to find the value. */
  mayRead(read: number, sector: number, value: number): boolean {
    for (let number = read - 1; number >= 1; number--) {
      const write = this.request(number);
      if (!touches(write, sector)) continue;
      if (write.op === OP_DISCARD || contentOf(write, number) === value) return true;
      if (this.statusOf(number) === STATUS_OK) return false;
    }
    return this.#wasFirst(sector, value);
  }

  #wasFirst(sector: number, value: number): boolean {
    return value === INITIAL || (value === 0 && this.#zeroAtFirst(sector));
  }

  /** Name and request in words. */
  describe(number: number): string {
    return `${this.name(number)} (${describeRequest(this.request(number))})`;
  }

  /** A short name. */
  name(number: number): string {
    return nameOf(this.request(number), number);
  }

  /** What a value is, in words. */
  valueName(value: number): string {
    if (value === INITIAL) return 'what was there at first';
    if (value === OLDER) return 'what was stable before the disk was opened';
    if (value === ANYTHING) return 'anything (a discard)';
    if (value === 0) return 'zeroes';
    if (value < 0 || value > this.count) return `${value}, which nobody wrote`;
    return this.name(value);
  }

  /** What a change of the write cache that fails leaves is not told: `unknown`. */
  #classOf(number: number): 'stable' | 'volatile' | 'unknown' {
    const request = this.request(number);
    if (this.#noFlush || !isWriteClass(request.op)) return 'volatile';
    if ((request.flags & REQUEST_FUA) !== 0) return 'stable';
    for (let other = number - 1; other >= 1; other--) {
      const earlier = this.request(other);
      const status = this.statusOf(other);
      if (earlier.op === OP_RESET && status !== STATUS_ABORTED) break;
      if (earlier.op !== OP_SET_WCE) continue;
      if (status !== OPEN && status !== STATUS_OK) return 'unknown';
      return earlier.to === 0 ? 'stable' : 'volatile';
    }
    return this.#wce ? 'volatile' : 'stable';
  }
}

/** True when the request changes the sector. */
export function touches({ op, from, to }: GuestRequest, sector: number): boolean {
  return isWriteClass(op) && from <= sector && sector < to;
}

/** What a write puts into its sectors. */
export function contentOf(write: GuestRequest, number: number): number {
  if (write.op === OP_DISCARD) return ANYTHING;
  return write.op === OP_WRITE ? number : 0;
}
