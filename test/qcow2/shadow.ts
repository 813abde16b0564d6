/** What the bytes of a disk must be: sparse, since disks are larger than memory. */

import { closeSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';

const PAGE_BYTES = 65_536;

/** A run of bytes. */
export interface Range {
  readonly offset: number;
  readonly length: number;
}

/** Bytes of which most are zero. */
export class SparseBytes {
  readonly #pages = new Map<number, Uint8Array>();

  read(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    each(offset, length, (page, from, at, count) => {
      const found = this.#pages.get(page);
      if (found !== undefined) bytes.set(found.subarray(from, from + count), at);
    });
    return bytes;
  }

  write(offset: number, bytes: Uint8Array): void {
    each(offset, bytes.length, (page, from, at, count) => {
      this.#page(page).set(bytes.subarray(at, at + count), from);
    });
  }

  fill(offset: number, length: number, value: number): void {
    each(offset, length, (page, from, _, count) => {
      if (value !== 0 || this.#pages.has(page)) this.#page(page).fill(value, from, from + count);
    });
  }

  /** Everything in it, as a raw file. */
  save(path: string, sizeBytes: number): void {
    const file = openSync(path, 'w');
    for (const [page, bytes] of this.#pages) {
      const offset = page * PAGE_BYTES;
      if (offset < sizeBytes)
        writeSync(file, bytes, 0, Math.min(PAGE_BYTES, sizeBytes - offset), offset);
    }
    ftruncateSync(file, sizeBytes);
    closeSync(file);
  }

  /** Takes these ranges from a raw file. */
  load(path: string, ranges: Iterable<Range>): void {
    const file = openSync(path, 'r');
    for (const { offset, length } of ranges) {
      const bytes = new Uint8Array(length);
      const count = readSync(file, bytes, 0, length, offset);
      this.write(offset, bytes.subarray(0, count));
    }
    closeSync(file);
  }

  #page(page: number): Uint8Array {
    let bytes = this.#pages.get(page);
    if (bytes === undefined) this.#pages.set(page, (bytes = new Uint8Array(PAGE_BYTES)));
    return bytes;
  }
}

function each(
  offset: number,
  length: number,
  visit: (page: number, from: number, at: number, count: number) => void,
): void {
  for (let at = 0; at < length;) {
    const from = (offset + at) % PAGE_BYTES;
    const count = Math.min(PAGE_BYTES - from, length - at);
    visit(Math.floor((offset + at) / PAGE_BYTES), from, at, count);
    at += count;
  }
}

/** A byte is what it is; it is that or zero (discarded); it is anything (discarded, version 2). */
export const KNOWN = 0;
export const OR_ZERO = 1;
export const ANYTHING = 2;

/** What a read may return at some moment. */
export interface Expectation {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly doubt: Uint8Array;
}

/** The bytes of a disk, and how sure they are. */
export class Shadow {
  readonly bytes = new SparseBytes();
  readonly #doubt = new SparseBytes();
  readonly #doubtful: Range[] = [];

  write(offset: number, bytes: Uint8Array): void {
    this.bytes.write(offset, bytes);
    this.#doubt.fill(offset, bytes.length, KNOWN);
  }

  zero(offset: number, length: number): void {
    this.bytes.fill(offset, length, 0);
    this.#doubt.fill(offset, length, KNOWN);
  }

  doubt(offset: number, length: number, doubt: number): void {
    const before = this.#doubt.read(offset, length);
    this.#doubt.write(
      offset,
      before.map((value) => Math.max(value, doubt)),
    );
    this.#doubtful.push({ offset, length });
  }

  expect(offset: number, length: number): Expectation {
    const bytes = this.bytes.read(offset, length);
    return { offset, bytes, doubt: this.#doubt.read(offset, length) };
  }

  /** Ranges that must be read while nothing else happens: what they are then, they stay. */
  takeDoubtful(): Range[] {
    return this.#doubtful.splice(0);
  }
}

/** Says what is wrong with bytes that were read; undefined: nothing. */
export function wrongIn(found: Uint8Array, expected: Expectation): string | undefined {
  const { bytes, doubt, offset } = expected;
  if (Buffer.compare(found, bytes) === 0) return undefined;
  let wrong = 0;
  let first = -1;
  for (let at = 0; at < bytes.length; at++) {
    if (found[at] === bytes[at] || doubt[at] === ANYTHING) continue;
    if (doubt[at] === OR_ZERO && found[at] === 0) continue;
    wrong += 1;
    if (first < 0) first = at;
  }
  if (wrong === 0) return undefined;
  const was = hex(bytes, first);
  return `${wrong} wrong bytes from ${offset + first} on: ${hex(found, first)} instead of ${was}`;
}

function hex(bytes: Uint8Array, at: number): string {
  return Buffer.from(bytes.subarray(at, at + 8)).toString('hex');
}
