/** A mapping between a disk's bytes and its host files, as a device gets it (image/qcow2). */
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
}
