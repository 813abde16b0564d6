/**
 * `sluice/testing`: a disk in memory that records, waits, fails on cue and knows what a power cut
 * would leave. For tests of programs that use a disk, and of this one.
 */
export type * from './webassembly.ts';
export {
  MemoryBackend,
  type MemoryBackendOptions,
  type MemoryCommand,
  type MemoryFault,
  type MemoryOperation,
} from './backend/memory.ts';
