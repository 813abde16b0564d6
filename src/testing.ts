/**
 * `sluice/testing`: disks in memory that record, wait, fail on cue and lose power; what such a disk
 * may hold then; and the crash explorer, which runs the engine over one such disk in every order of
 * events. For tests of programs that use a disk, and of this one.
 */
export type * from './webassembly.ts';
export {
  MemoryBackend,
  type MemoryBackendOptions,
  type MemoryCommand,
  type MemoryFault,
  type MemoryOperation,
} from './backend/memory.ts';
export {
  ANYTHING,
  type Cut,
  SectorImage,
  type SectorImageOptions,
  type VolatileWrite,
} from './testing/sector-image.ts';
export {
  explore,
  exploreAsync,
  type ExploreFailure,
  type ExploreOptions,
  type ExploreProgress,
  type ExploreResult,
  exploreSteps,
  type FaultName,
  FAULTS,
} from './testing/explore.ts';
export type { MemoryDiskOptions } from './backend/memory-command.ts';
export { type CrashState, type RestartOptions, SimulatedDisk } from './testing/simulated-disk.ts';
export type { SimulatedEvent } from './testing/simulated-disk-log.ts';
export type {
  FaultTarget,
  Micros,
  SimulatedDiskOptions,
  SimulatedFault,
  SimulatedFaultName,
  SimulatedFaults,
  TimedOperation,
} from './testing/simulated-disk-options.ts';
export * from './testing/guest/index.ts';
