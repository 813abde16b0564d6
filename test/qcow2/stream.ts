/** Random streams of requests, at the places where an image's tables have borders. */

import type { CacheModeName } from '../../src/cache-mode.ts';
import { Random } from '../engine/random.ts';
import { type Kind, shapeOf } from './kinds.ts';
import type { Range } from './shadow.ts';

/** Something that qemu-io does while the disk is closed. */
export interface Foreign extends Range {
  readonly op: 'write' | 'compressed' | 'zero' | 'unmap';
  readonly value: number;
}

interface Force {
  readonly fua: boolean;
  readonly barrier: boolean;
}

/** One step of a stream. Requests are not awaited. */
export type Step =
  | (Range & { readonly do: 'write'; readonly value: number } & Force)
  | (Range & { readonly do: 'zeroes'; readonly mayUnmap: boolean } & Force)
  | (Range & { readonly do: 'discard' | 'read' | 'status' })
  | { readonly do: 'flush' }
  | { readonly do: 'cache'; readonly on: boolean }
  /** Zeroes that may be refused, and then change nothing. */
  | (Range & { readonly do: 'fast' })
  /** The event loop turns, once. */
  | { readonly do: 'turn' }
  /** All requests are awaited, and what was discarded is read. */
  | { readonly do: 'settle' }
  /** The disk is closed, QEMU has its turn, and the disk is opened again. */
  | { readonly do: 'qemu'; readonly deeds: readonly Foreign[] }
  /** The disk is closed while requests are in flight, and opened again. */
  | { readonly do: 'reopen' }
  | { readonly do: 'snapshot' | 'forget'; readonly name: string };

/** How the disk is opened. */
export interface Setup {
  readonly cache: CacheModeName;
  readonly metadataCacheBytes: number;
  readonly flushIntervalMs: number;
  readonly mergeBytes: number;
  readonly depth: number | undefined;
  readonly elevator: 'none' | 'deadline';
  readonly discard: 'unmap' | 'ignore';
  readonly barrier: 'off' | 'order' | 'durable';
}

/** What is done to an image. */
export interface Stream {
  readonly setup: Setup;
  readonly steps: readonly Step[];
}

const KIB = 1024;
const MIB = 1024 * KIB;
const WINDOW_MIN = 48 * KIB;
const WINDOW_MAX = 6 * MIB;
const SECTOR = 512;
/** How many streams ask for much at once, all over the disk. */
const PRESSURE = 0.15;
const STEPS_OF_PRESSURE = 500;
const BYTES_OF_PRESSURE = 128 * MIB;
/** Disks up to this size. */
const PRESSURE_MAX = 64 * MIB;
/** Rolls below this one are requests. */
const REQUESTS = 80;
/** How often they wait, in the mean: after this many requests. */
const BATCH_OF_PRESSURE = 80;

/** The stream of a seed. */
export function randomStream(kind: Kind, seed: number): Stream {
  const random = new Random(seed + hash(kind.name));
  const setup: Setup = {
    cache: random.pick(['writeback', 'writeback', 'none', 'writethrough', 'unsafe', 'directsync']),
    metadataCacheBytes: random.pick([0, 0, 256 * KIB, 16 * MIB]),
    flushIntervalMs: random.pick([0, 1, 5000]),
    mergeBytes: random.pick([0, 4096, MIB, MIB]),
    depth: random.pick([undefined, undefined, 1, 4, 64]),
    elevator: random.pick(['none', 'none', 'deadline']),
    discard: random.pick(['unmap', 'unmap', 'ignore']),
    barrier: random.pick(['off', 'off', 'order', 'durable']),
  };
  const pressure = random.chance(PRESSURE);
  const affordable = Math.ceil(BYTES_OF_PRESSURE / shapeOf(kind).clusterBytes);
  const count = pressure ? Math.min(STEPS_OF_PRESSURE, affordable) : random.pick([20, 60, 150]);
  return { setup, steps: new Generator(kind, setup, pressure, random).steps(count) };
}

function hash(text: string): number {
  return Array.from(text).reduce((sum, char) => Math.imul(sum, 31) + char.charCodeAt(0), 7);
}

/** Where the requests of one stream go. */
class Generator {
  readonly #kind: Kind;
  readonly #setup: Setup;
  readonly #pressure: boolean;
  readonly #random: Random;
  readonly #windows: readonly Range[];
  #value = 0;
  readonly #snapshots: string[];

  constructor(kind: Kind, setup: Setup, pressure: boolean, random: Random) {
    this.#kind = kind;
    this.#setup = setup;
    this.#pressure = pressure;
    this.#random = random;
    const everywhere = pressure && kind.sizeBytes <= PRESSURE_MAX;
    this.#windows = everywhere ? [{ offset: 0, length: kind.sizeBytes }] : windowsOf(kind, random);
    this.#snapshots = [...(kind.snapshots ?? [])];
  }

  steps(count: number): Step[] {
    return Array.from({ length: count }, () => this.#step());
  }

  #step(): Step {
    const random = this.#random;
    const waits = !this.#pressure || random.below(BATCH_OF_PRESSURE) === 0;
    const roll = random.below(waits ? 100 : REQUESTS);
    const force = {
      fua: random.chance(0.1),
      barrier: this.#setup.barrier !== 'off' && random.chance(0.05),
    };
    if (roll < 36) return { do: 'write', ...this.#range(), value: ++this.#value, ...force };
    if (roll < 51) return { do: 'read', ...this.#range() };
    if (roll < 63)
      return { do: 'zeroes', ...this.#range(), mayUnmap: random.chance(0.5), ...force };
    if (roll < 70) return { do: 'discard', ...this.#range() };
    if (roll < 74) return { do: 'status', ...this.#range() };
    if (roll < 78) return { do: 'flush' };
    if (roll < 79) return { do: 'cache', on: random.chance(0.5) };
    if (roll < 80) return { do: 'fast', ...this.#range() };
    if (roll < 92) return { do: 'turn' };
    if (roll < 96) return { do: 'settle' };
    if (roll < 97) return { do: 'reopen' };
    return random.chance(0.3) ? this.#snapshot() : { do: 'qemu', deeds: this.#deeds() };
  }

  #snapshot(): Step {
    if (shapeOf(this.#kind).dataFile !== 'none') return { do: 'qemu', deeds: [] };
    const { options } = this.#kind;
    const [first] = this.#snapshots;
    const most =
      options.includes('refcount_bits=1,') || options.endsWith('refcount_bits=1') ? 0 : 2;
    if (first !== undefined && (this.#snapshots.length >= most || this.#random.chance(0.5))) {
      this.#snapshots.shift();
      return { do: 'forget', name: first };
    }
    if (most === 0) return { do: 'qemu', deeds: [] };
    const name = `s${++this.#value}`;
    this.#snapshots.push(name);
    return { do: 'snapshot', name };
  }

  #deeds(): Foreign[] {
    if (this.#kind.sizeBytes === 0) return [];
    const { clusterBytes, dataFile } = shapeOf(this.#kind);
    return Array.from({ length: this.#random.below(4) }, () => {
      const op = this.#random.pick(['write', 'write', 'compressed', 'zero', 'unmap'] as const);
      const value = 128 + (++this.#value % 100);
      const { offset, length } = this.#range();
      const start = Math.floor(offset / clusterBytes) * clusterBytes;
      if (op === 'compressed' && dataFile === 'none') {
        const end = Math.min(start + clusterBytes, this.#kind.sizeBytes);
        return { op, value, offset: start, length: end - start };
      }
      return { op: op === 'compressed' ? 'write' : op, value, offset, length };
    });
  }

  #range(): Range {
    const random = this.#random;
    const { clusterBytes, unitBytes } = shapeOf(this.#kind);
    const window = random.pick(this.#windows);
    const border = random.pick([clusterBytes, clusterBytes, unitBytes, SECTOR, 4096]);
    const near = random.pick([0, 0, 0, 0, -SECTOR, SECTOR, -1, 1, random.below(SECTOR)]);
    const lengths = [1, SECTOR - 1, SECTOR, 4096, unitBytes, unitBytes + SECTOR];
    lengths.push(clusterBytes, clusterBytes, clusterBytes - SECTOR, 2 * clusterBytes);
    lengths.push(3 * clusterBytes, 1 + random.below(3 * clusterBytes), 1 + random.below(8 * KIB));
    const length = random.chance(0.02) ? random.below(4 * MIB) : random.pick(lengths);
    const start = window.offset + random.below(window.length + 1);
    const rough = start - (start % border) + near;
    const isWhole = random.chance(0.6);
    const offset = clip(isWhole ? rough - (rough % SECTOR) : rough, 0, this.#kind.sizeBytes);
    const wanted = isWhole ? Math.ceil(length / SECTOR) * SECTOR : length;
    return { offset, length: clip(wanted, 0, this.#kind.sizeBytes - offset) };
  }
}

/** A few parts of the disk, small enough that requests meet there. */
export function windowsOf(kind: Kind, random: Random): Range[] {
  const { clusterBytes, tableBytes } = shapeOf(kind);
  const { sizeBytes } = kind;
  const length = clip(8 * clusterBytes, WINDOW_MIN, WINDOW_MAX);
  const tables = Math.floor(sizeBytes / tableBytes);
  const whole = { offset: 0, length: sizeBytes };
  if (random.chance(0.2)) return [whole];
  const middles = [
    0,
    sizeBytes,
    random.below(sizeBytes + 1),
    (1 + random.below(tables + 1)) * tableBytes,
    ...(kind.chain ?? []).map((layer) => layer.sizeBytes),
  ];
  return [0, 1, 2].map(() => {
    const start = clip(random.pick(middles) - length / 2, 0, sizeBytes);
    return { offset: start, length: clip(length, 0, sizeBytes - start) };
  });
}

function clip(value: number, least: number, most: number): number {
  return Math.max(least, Math.min(value, most));
}
