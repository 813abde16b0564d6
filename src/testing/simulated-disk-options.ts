/** How a simulated disk is made: sizes, times, faults. What is here is what its tests promise. */
import type { MemoryDiskOptions, MemoryOperation } from '../backend/memory-command.ts';
import { invalid, toWhole } from '../arguments.ts';

/** The unit that reaches the platter whole or not at all. */
export const SECTOR_BYTES = 512;
/** Every sync looks at every sector, so a simulated disk is a small one: 1 GiB. */
const LARGEST_BYTES = 2 ** 30;
const LARGEST_BLOCK_BYTES = 65536;
const LONGEST_MICROS = 1e12;

/** Microseconds: always as many, or drawn from `least` to `most`. */
export type Micros = number | readonly [least: number, most: number];

/** What a latency is given for: an operation, or a write that is stable when it is answered. */
export type TimedOperation = MemoryOperation | 'stableWrite';

/**
 * Which commands a fault hits: those that fit everything that is given. Commands that fit `ops` and
 * `sectors` are counted, then `nth` picks some, then `probability` decides.
 */
export interface FaultTarget {
  /** Default: every operation that the fault is about. */
  readonly ops?: readonly MemoryOperation[];
  /** Commands that touch one of these sectors of 512 bytes; `end` is the first behind them. */
  readonly sectors?: readonly [first: number, end: number];
  /** The n-th such command, counted from 1, or several of them. */
  readonly nth?: number | readonly number[];
  /** 0 to 1, drawn from the seed; default 1. */
  readonly probability?: number;
}

/** `true`: every command that the fault is about. */
export type SimulatedFault = true | FaultTarget;

/** What goes wrong on a simulated disk. When several faults hit a command, the first one here. */
export interface SimulatedFaults {
  /**
   * Any operation is answered with EIO. Of a write, writeZeroes or discard the seed decides sector
   * by sector whether it has happened (all or nothing with `torn: false`), an extend has not. A
   * sync that fails like this is a `failingSync`.
   */
  readonly eio?: SimulatedFault;
  /** write, writeZeroes, extend: answered with ENOSPC, and nothing has happened. */
  readonly enospc?: SimulatedFault;
  /** write, writeZeroes: some first sectors reach the disk, never all, then comes EIO. */
  readonly shortWrites?: SimulatedFault;
  /**
   * sync: answered with EIO, and what it should have written counts as clean from then on, as on
   * Linux: the next sync succeeds although that data may be lost.
   */
  readonly failingSync?: SimulatedFault;
  /** sync, and write when it is a stable one: answered with success, and nothing is stable. */
  readonly lyingSync?: SimulatedFault;
  /** Any operation is not answered before `release()`. */
  readonly stuck?: SimulatedFault;
  /** Any operation takes `micros` longer; default 1 s. It may have another fault as well. */
  readonly slow?: true | (FaultTarget & { readonly micros?: Micros });
}

/** The names of the faults. */
export type SimulatedFaultName = keyof SimulatedFaults;

/** How a SimulatedDisk is made. */
export interface SimulatedDiskOptions extends MemoryDiskOptions {
  /** Capacity in bytes, a multiple of 512 and of `blockSizeBytes`, at most 1 GiB. */
  readonly sizeBytes: number;
  /** A whole number; its low 32 bits decide everything that is left to chance. */
  readonly seed: number;
  /**
   * As far as the disk can be extended, in whole blocks; beyond it is ENOSPC. Default `sizeBytes`.
   */
  readonly mostBytes?: number;
  /**
   * The granule that the engine keeps requests apart by, a power of two from 512 (the default): a
   * shorter write reads the rest of its sectors first, as O_DIRECT does.
   */
  readonly blockSizeBytes?: number;
  /**
   * `automatic` (the default): answers come from the event loop, one in a turn, in the order of
   * their times. `manual`: only from `step`, `run` and `runUntil`.
   */
  readonly clock?: 'automatic' | 'manual';
  /** How long a command takes; operations that are left out have their default. */
  readonly latency?: Readonly<Partial<Record<TimedOperation, Micros>>>;
  readonly faults?: SimulatedFaults;
  /**
   * True, the default: a write that a power cut or an error meets may have reached any of its
   * sectors. False: all of them or none, which a few drives promise.
   */
  readonly torn?: boolean;
  /** What the disk holds at first, stable; zeroes behind its end. Default: zeroes. */
  readonly contents?: Uint8Array;
}

/** Of a fast SSD with a volatile cache, in microseconds. */
const DEFAULT_LATENCY: Readonly<Record<TimedOperation, Micros>> = {
  read: [60, 120],
  write: [15, 60],
  stableWrite: [200, 700],
  writeZeroes: [15, 80],
  discard: [20, 100],
  blockStatus: [5, 20],
  sync: [300, 1500],
  extend: [15, 60],
};

/** A range of whole microseconds for everything that takes time. */
export type Latencies = Readonly<Record<TimedOperation, readonly [number, number]>>;

/** Refuses sizes that no simulated disk has. */
export function checkShape({
  sizeBytes,
  mostBytes = sizeBytes,
  blockSizeBytes = SECTOR_BYTES,
  seed,
  contents,
}: Shape): void {
  toWhole(sizeBytes, 'sizeBytes', SECTOR_BYTES, LARGEST_BYTES);
  toWhole(mostBytes, 'mostBytes', sizeBytes, LARGEST_BYTES);
  toWhole(blockSizeBytes, 'blockSizeBytes', SECTOR_BYTES, LARGEST_BLOCK_BYTES);
  toWhole(seed, 'seed', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
  if (!Number.isInteger(Math.log2(blockSizeBytes))) {
    throw invalid(`blockSizeBytes must be a power of two, not ${blockSizeBytes}`);
  }
  for (const [name, bytes] of Object.entries({ sizeBytes, mostBytes })) {
    if (bytes % blockSizeBytes === 0) continue;
    throw invalid(`${name} must be a multiple of ${blockSizeBytes}, not ${bytes}`);
  }
  if (contents !== undefined && contents.length > sizeBytes) {
    throw invalid(`contents of ${contents.length} bytes do not fit a disk of ${sizeBytes}`);
  }
}

type Shape = Pick<
  SimulatedDiskOptions,
  'sizeBytes' | 'mostBytes' | 'blockSizeBytes' | 'seed' | 'contents'
>;

/** The latencies in force. */
export function latenciesOf(given: SimulatedDiskOptions['latency'] = {}): Latencies {
  const ranges = Object.entries({ ...DEFAULT_LATENCY, ...given }).map(([name, micros]) => {
    if (!Object.hasOwn(DEFAULT_LATENCY, name)) {
      const known = Object.keys(DEFAULT_LATENCY).join(', ');
      throw invalid(`latency is for ${known}, not for ${name}`);
    }
    return [name, rangeOf(micros, `latency.${name}`)] as const;
  });
  return Object.fromEntries(ranges) as unknown as Latencies;
}

/** The range that `micros` stands for. */
export function rangeOf(micros: Micros, name: string): readonly [number, number] {
  const [least, most] = typeof micros === 'number' ? [micros, micros] : micros;
  toWhole(least, `${name} in microseconds`, 0, LONGEST_MICROS);
  toWhole(most, `${name} in microseconds`, least, LONGEST_MICROS);
  return [least, most];
}
