/** What goes into an exploration and what comes out of it. */

/** What can go wrong below an engine, by name. */
export type FaultName = 'write' | 'space' | 'torn' | 'read' | 'sync';

/**
 * The faults:
 *
 * - `write`: a write, zeroing or discard fails with EIO and has changed nothing.
 * - `torn`: the same, and it has changed the first half of its sectors.
 * - `space`: the same with ENOSPC: the disk became full in the middle.
 * - `read`: a read fails with EIO.
 * - `sync`: a sync fails with EIO; what it should have written counts as clean from then on.
 */
export const FAULTS: readonly FaultName[] = ['write', 'torn', 'space', 'read', 'sync'];

/** `states`, `requests` and `exhaustiveRequests` where nobody says otherwise. */
export const DEFAULT_STATES = 1_000_000;
export const DEFAULT_REQUESTS = 12;
export const DEFAULT_EXHAUSTIVE_REQUESTS = 4;

/** What an exploration covers. */
export interface ExploreOptions {
  /** Where random streams and orders come from; the same seed explores the same. Default 1. */
  readonly seed?: number;
  /** Crash states to look at before it ends; default 1,000,000. */
  readonly states?: number;
  /** Requests of the longest stream; default 12. */
  readonly requests?: number;
  /**
   * First every stream of up to `exhaustiveRequests` requests in every order of events, however
   * long that takes; `states` limits this too. Streams of up to 3 are made of 20 different
   * requests, longer ones of 8, in 14 configurations. Default false: short streams in every order,
   * longer ones by samples.
   */
  readonly exhaustive?: boolean;
  /** Default 4. */
  readonly exhaustiveRequests?: number;
  /** What may fail; default all. Power cuts and kills are always explored. */
  readonly faults?: readonly FaultName[];
  /** Another build of the engine; default: the one in the package. */
  readonly module?: WebAssembly.Module;
  /** Look for the shortest stream that fails like the one that was found; default true. */
  readonly shrink?: boolean;
  /** Called now and then, with what has been covered so far. */
  readonly onProgress?: (progress: ExploreProgress) => void;
  /** Stops it: the result is that of what was covered. */
  readonly signal?: AbortSignal;
}

/** What has been covered. */
export interface ExploreProgress {
  /** Moments at which the power was cut: each is an engine, a disk and a history of its own. */
  readonly states: number;
  /** Streams of requests. */
  readonly streams: number;
  /** Calls of the engine. */
  readonly steps: number;
  /** Contents of disks that the cuts left, all combinations of surviving sectors counted. */
  readonly survivors: number;
  /** Times the process was killed, and the disk opened anew. */
  readonly kills: number;
  /** What is being explored: a phrase for a person. */
  readonly phase: string;
}

/** A broken promise. */
export interface ExploreFailure {
  /** Which promise: a short name, such as `durability` or `order`. */
  readonly rule: string;
  /** What was seen, what was allowed, and why: one sentence or two. */
  readonly message: string;
  /** The shortest stream that was found, a request for each entry. */
  readonly stream: readonly string[];
  /** The configuration of the engine in words. */
  readonly config: string;
  /** One line for each event, from the first request to the broken promise. */
  readonly timeline: string;
}

/** How an exploration ended. */
export interface ExploreResult extends ExploreProgress {
  readonly seconds: number;
  /** The first broken promise, shrunk; absent when all were kept. */
  readonly failure?: ExploreFailure;
}
