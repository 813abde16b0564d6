/**
 * `sluice`: the engine and the disk, without any I/O of their own. Runs in browsers.
 */
export type * from './webassembly.ts';
export {
  type BarrierPromise,
  createEngine,
  type DeadlineOptions,
  type Elevator,
  Engine,
  type EngineOptions,
  type SchedulingOptions,
} from './engine.ts';
export { Disk } from './disk.ts';
export { type Footprint, footprintBytes, type Place } from './place.ts';
export type { ResizeOptions } from './resize.ts';
export * from './virtio/index.ts';
export type {
  ByteCount,
  DiskExtent,
  DiskOptions,
  RequestOptions,
  WriteOptions,
  WriteZeroesOptions,
} from './disk-types.ts';
export type { Corruption } from './corruption.ts';
export type { DiskStats, TableStats } from './stats.ts';
export type { Backend, Done } from './backend/backend.ts';
export type { Tracer } from './trace/tracer.ts';
export {
  CACHE_MODES,
  type CacheAxes,
  type CacheMode,
  type CacheModeName,
  DEFAULT_CACHE_MODE,
} from './cache-mode.ts';
export { ERROR_CODES, type ErrorCode, SluiceError } from './errors.ts';
