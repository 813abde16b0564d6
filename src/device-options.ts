/** How a device is set up. */
import type { SchedulingOptions } from './engine.ts';
import type { Mapping } from './mapping.ts';
import type { Tracer } from './trace/tracer.ts';

/** How a device is set up over its backends. */
export interface DeviceOptions extends SchedulingOptions {
  /** Flushes and stable writes are acknowledged without a sync. */
  readonly noFlush: boolean;
  /** Writes start in the volatile class. */
  readonly wce: boolean;
  /** Bytes of transfer buffers, a power of two of at least 64 KiB. */
  readonly arenaBytes: number;
  /** Largest merged transfer in bytes. */
  readonly mergeBytes: number;
  /** A build of the engine; default: the inlined release build. */
  readonly module?: WebAssembly.Module | undefined;
  /** Is told of every request. */
  readonly tracer?: Tracer | undefined;
  /** The backends are those of a mapping. */
  readonly mapping?: Mapping | undefined;
}
