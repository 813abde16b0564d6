/** What an exploration of qcow2 runs: an engine over the files of one image. */
import type { CommandRecord, CompletionRecord } from '../../engine.ts';
import type { BarrierMode } from '../stream.ts';
import type { BuiltImage } from './image-builder.ts';

/** How the engine and its caches are configured. */
export interface Qcow2Setup {
  readonly depth: number;
  readonly mergeBytes: number;
  readonly wce: boolean;
  readonly fua: boolean;
  readonly barrier: BarrierMode;
  /** Slices of L2 tables and of refcount blocks that are kept. */
  readonly l2Slices: number;
  readonly refcountSlices: number;
  /** Clusters that are reserved at once. */
  readonly reserveClusters: number;
  /** Age at which metadata is written, in microseconds; 0: never for that reason. */
  readonly flushIntervalMicros: number;
  /** The file does not read as zeroes behind its end. */
  readonly noHoles: boolean;
  /** Free clusters are given back to the host. */
  readonly punch: boolean;
}

/** An engine that has opened an image: the calls of src/engine.ts. */
export interface Subject {
  readonly memory: WebAssembly.Memory;
  /** Where the data of requests may lie: from here to the end of the memory. */
  readonly dataAddress: number;
  /** Microseconds until it wants to run again, or Infinity. */
  readonly waitMicros: number;
  submit(
    tag: number,
    op: number,
    flags: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    queue: number,
  ): void;
  result(id: number, errno: number, value: number): void;
  pump(nowMicros: number): void;
  takeCommand(command: CommandRecord): boolean;
  takeCompletion(completion: CompletionRecord): boolean;
  /** Gives back what is reserved; false when it cannot. Nothing is submitted any more. */
  close(): boolean;
  /** True when nothing of the tables is in memory only. */
  readonly isSettled: boolean;
  /** What lies at an offset of the image, by the tables in memory. */
  placeOf(offset: number): HostPlace;
}

/** A table of an image, or none of them. */
export type HostPlace =
  | 'header'
  | 'L1'
  | 'L2'
  | 'shared L2'
  | 'refcount table'
  | 'refcounts'
  | 'other';

/** Opens the image; `dataBytes` of memory are for the data of requests. */
export type OpenSubject = (first: BuiltImage, setup: Qcow2Setup, dataBytes: number) => Subject;
