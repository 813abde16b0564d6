/**
 * Counters of requests, of one connection or of all that an export has had: typed arrays, so that a
 * request costs an addition or two and nothing is allocated.
 */
import { COMMANDS, UNKNOWN_COMMAND } from '../commands.ts';
import { NBD_EINVAL, NBD_EIO, NBD_ENOSPC, NBD_ENOTSUP, NBD_EPERM } from '../protocol.ts';

/** Errors of replies. NBD proto, "Error values". */
const ERRORS: readonly (readonly [name: NbdErrorName, value: number])[] = [
  ['EPERM', NBD_EPERM],
  ['EIO', NBD_EIO],
  ['ENOMEM', 12],
  ['EINVAL', NBD_EINVAL],
  ['ENOSPC', NBD_ENOSPC],
  ['EOVERFLOW', 75],
  ['ENOTSUP', NBD_ENOTSUP],
  ['ESHUTDOWN', 108],
];

/** An error of NBD by its name. NBD proto, "Error values". */
export type NbdErrorName =
  | 'EPERM'
  | 'EIO'
  | 'ENOMEM'
  | 'EINVAL'
  | 'ENOSPC'
  | 'EOVERFLOW'
  | 'ENOTSUP'
  | 'ESHUTDOWN';

const ERROR_INDEX = new Map(ERRORS.map(([, value], index) => [value, index]));
/** An error that the protocol does not name is one of input and output. */
const OTHER_ERROR = ERRORS.findIndex(([name]) => name === 'EIO');

/** The first bucket ends at 2^3 microseconds, each next one at twice as much. */
const FIRST_BUCKET_BITS = 3;
/** The last one but one ends at 2^24 microseconds, 16.8 s; the last one has no end. */
const BUCKETS = 23;
const LONGEST_MICROS = 2 ** 30;

/** Where the buckets of latencies end, in seconds; behind the last end there is one more bucket. */
export const LATENCY_BOUNDS_SECONDS: readonly number[] = Array.from(
  { length: BUCKETS - 1 },
  (_, bucket) => 2 ** (FIRST_BUCKET_BITS + bucket) / 1e6,
);

export class Counts {
  /** Bytes of the socket in transmission. */
  receivedBytes = 0;
  sentBytes = 0;
  readonly #latencies = new Float64Array(COMMANDS.length * BUCKETS);
  readonly #totalMs = new Float64Array(COMMANDS.length);
  readonly #bytes = new Float64Array(COMMANDS.length);
  readonly #errors = new Float64Array(COMMANDS.length * ERRORS.length);

  /**
   * A request was answered.
   * @param type its command
   * @param lengthBytes what it asked for; only counted when all went well
   * @param error of the reply, 0: none
   */
  count(type: number, lengthBytes: number, error: number, elapsedMs: number): void {
    const command = type < COMMANDS.length ? type : UNKNOWN_COMMAND;
    const latency = command * BUCKETS + bucketOf(elapsedMs);
    this.#latencies[latency] = (this.#latencies[latency] ?? 0) + 1;
    this.#totalMs[command] = (this.#totalMs[command] ?? 0) + elapsedMs;
    if (error === 0) this.#bytes[command] = (this.#bytes[command] ?? 0) + lengthBytes;
    else this.#countError(command, error);
  }

  /** Adds what another one has counted. */
  add(other: Counts): void {
    this.receivedBytes += other.receivedBytes;
    this.sentBytes += other.sentBytes;
    addTo(this.#latencies, other.#latencies);
    addTo(this.#totalMs, other.#totalMs);
    addTo(this.#bytes, other.#bytes);
    addTo(this.#errors, other.#errors);
  }

  /** Answered requests of a command, errors included. */
  requests(command: number): number {
    return sum(this.latencies(command));
  }

  /** Answered requests of a command by bucket: LATENCY_BOUNDS_SECONDS, and one behind them. */
  latencies(command: number): Float64Array {
    return this.#latencies.subarray(command * BUCKETS, (command + 1) * BUCKETS);
  }

  /** What they took together. */
  totalSeconds(command: number): number {
    return (this.#totalMs[command] ?? 0) / 1000;
  }

  /** Bytes that the good ones asked for. */
  bytes(command: number): number {
    return this.#bytes[command] ?? 0;
  }

  /** Errors of a command that have occurred. */
  errors(command: number): Partial<Record<NbdErrorName, number>> {
    const found: Partial<Record<NbdErrorName, number>> = {};
    for (const [index, [name]] of ERRORS.entries()) {
      const count = this.#errors[command * ERRORS.length + index] ?? 0;
      if (count > 0) found[name] = count;
    }
    return found;
  }

  #countError(command: number, error: number): void {
    const at = command * ERRORS.length + (ERROR_INDEX.get(error) ?? OTHER_ERROR);
    this.#errors[at] = (this.#errors[at] ?? 0) + 1;
  }
}

/** The name of an error of a reply. */
export function errorName(error: number): NbdErrorName {
  return ERRORS[ERROR_INDEX.get(error) ?? OTHER_ERROR]?.[0] ?? 'EIO';
}

/** A time that is as long as a bucket's end belongs to it. */
function bucketOf(elapsedMs: number): number {
  const micros = Math.ceil(Math.min(elapsedMs * 1000, LONGEST_MICROS));
  if (micros <= 1) return 0;
  const bits = 32 - Math.clz32(micros - 1);
  return Math.min(Math.max(bits - FIRST_BUCKET_BITS, 0), BUCKETS - 1);
}

function addTo(target: Float64Array, source: Float64Array): void {
  for (let at = 0; at < target.length; at++) target[at] = (target[at] ?? 0) + (source[at] ?? 0);
}

function sum(counts: Float64Array): number {
  return counts.reduce((total, count) => total + count, 0);
}
