/**
 * What guest data must never hit: the header, the tables, the refcount blocks and the L2 tables
 * that the image named at first, as long as the engine's tables or those of the file name them.
 */

import * as map from '../../../src/abi/map.ts';
import { Violation } from '../ledger.ts';
import type { Command, HostFiles } from './files.ts';
import type { BuiltImage } from './image.ts';
import type { Setup } from './input.ts';
import { MAP } from './layout.ts';

const OFFSETS_HIGH = 0x00ff_ffff;
const OFFSETS_LOW = 0xffff_fe00;
const HIGH_WORD = 0x1_0000_0000;

interface Range {
  readonly start: number;
  readonly end: number;
}

/** See the head of the file. */
export class Guard {
  readonly #memory: DataView;
  readonly #files: HostFiles;
  #built!: BuiltImage;
  #clusterBytes = 512;
  #fixed: Range[] = [];
  #l2: number[] = [];
  #blocks: number[] = [];

  constructor(memory: WebAssembly.Memory, files: HostFiles) {
    this.#memory = new DataView(memory.buffer);
    this.#files = files;
  }

  /** Looks at the tables of an image that the host has just got. */
  reset(built: BuiltImage, { shape, shortL1 }: Setup): void {
    const { l1Offset, l1Entries, tableOffset, ranges } = built;
    const cluster = 2 ** shape.clusterBits;
    this.#built = built;
    this.#clusterBytes = cluster;
    this.#fixed = [
      { start: 0, end: cluster },
      { start: l1Offset, end: l1Offset + l1Entries * 8 },
      ...ranges.map(({ offset, length }) => ({ start: offset, end: offset + length })),
    ];
    const { view } = this.#files;
    const named = (at: number, count: number): number[] =>
      Array.from({ length: count }, (_, index) => offsetAt(view, at + index * 8)).filter(
        (offset) => offset !== 0 && offset % cluster === 0 && offset < this.#files.sizeBytes,
      );
    // Of a short L1 table the engine knows the first half.
    this.#l2 = [...new Set(named(l1Offset, shortL1 ? l1Entries >> 1 : l1Entries))];
    this.#blocks = [...new Set(named(tableOffset, cluster / 8))];
  }

  /** A command that carries bytes of the guest into the image. */
  check({ op, offset, length }: Command): void {
    const end = offset + length;
    const refuse = (what: string): never => {
      throw new Violation(`firewall: command ${op} at ${offset}+${length} hits ${what}`);
    };
    for (const range of this.#fixed) {
      if (offset < range.end && range.start < end) refuse(`metadata at ${range.start}`);
    }
    const cluster = this.#clusterBytes;
    const { l1Offset, l1Entries, tableOffset } = this.#built;
    const isFirstTable = this.#word(map.MAP_TABLE_OFFSET) === tableOffset;
    if (isFirstTable && offset < tableOffset + cluster && tableOffset < end) refuse('the table');
    for (const table of this.#l2) {
      if (offset >= table + cluster || table >= end) continue;
      const isNamed = this.#isNamed(table, map.MAP_L1_AT, l1Entries, l1Offset);
      if (isNamed) refuse(`the L2 table at ${table}`);
    }
    for (const block of this.#blocks) {
      if (offset >= block + cluster || block >= end) continue;
      const isNamed = this.#isNamed(block, map.MAP_TABLE_AT, cluster / 8, tableOffset);
      if (isNamed) refuse(`the refcount block at ${block}`);
    }
  }

  /** True while an entry in memory, or one in the file, leads there. */
  #isNamed(offset: number, place: number, entries: number, inFile: number): boolean {
    const inMemory = MAP + this.#word(place);
    for (let index = 0; index < entries; index++) {
      if (offsetAt(this.#memory, inMemory + index * 8) === offset) return true;
      if (offsetAt(this.#files.view, inFile + index * 8) === offset) return true;
    }
    return false;
  }

  #word(at: number): number {
    return this.#memory.getUint32(MAP + at, true);
  }
}

function offsetAt(view: DataView, at: number): number {
  const high = view.getUint32(at) & OFFSETS_HIGH;
  return high * HIGH_WORD + ((view.getUint32(at + 4) & OFFSETS_LOW) >>> 0);
}
