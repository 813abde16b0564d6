/** A mapping between a disk's bytes and its host files, as a device gets it (image/qcow2). */
import type { DirtyMap } from './dirty-map.ts';
import type { DiskGeometry } from './disk-geometry.ts';
import type { Engine } from './engine.ts';

/** What a format brings along. The backends of the device are then those of abi/map.ts (FILE_*). */
export interface Mapping {
  readonly geometry: DiskGeometry;
  /** Files that are written, each a stability domain: the first ones of the backends. */
  readonly domains: number;
  /** The configuration words of its region (abi/map.ts). */
  readonly config: Uint32Array;
  /** Bytes of its region beside the engine's. */
  readonly regionBytes: number;
  /** Fills the region of an engine that was just configured. */
  install(engine: Engine): void;
  /**
   * What is left to do in the files when all that was written is stable and the engine has come to
   * rest, before they are closed. It may attach their backends elsewhere.
   */
  finish?(engine: Engine): Promise<void>;
  /** See `Device.readBitmap`. */
  readonly readBitmap?: (name: string) => Promise<DirtyMap | undefined>;
  /** How the disk gets another size; absent: it does not. */
  readonly resizing?: MappingResizing | undefined;
}

/**
 * Another size, step by step, while the mapping is at rest: nothing of it is in memory alone. After
 * each step the mapping begins anew with what the step answers; backends may have been attached
 * elsewhere.
 */
export interface MappingResizing {
  /** Where something may show behind the end of the disk, once it is longer. */
  readonly shownBytes: number;
  /** Throws when the disk cannot have that size. */
  check(sizeBytes: number): void;
  /** All is ready for that size. What the disk shows does not change. */
  makeRoom(sizeBytes: number): Promise<Mapping>;
  /** The size, which is stable afterwards. */
  setSize(sizeBytes: number): Promise<Mapping>;
  /** The files as they are. */
  reload(): Promise<Mapping>;
}
