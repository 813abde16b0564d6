/** Runs a program under strace and reads what system calls it made on one file. */

import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { promisify } from 'node:util';

/** One system call, as strace shows it. */
export interface SystemCall {
  readonly name: string;
  readonly args: string;
  /** -1 when the call failed; then `error` has its name. */
  readonly result: number;
  readonly error: string | undefined;
  /**
   * Microseconds since the epoch: before the kernel began with the call, and after it was done
   * with it but before the program knew.
   */
  readonly startMicros: number;
  readonly endMicros: number;
  /** The id of the thread that made the call. */
  readonly thread: string;
}

/** What to trace, and which faults to put into it (strace's `inject`, without the keyword). */
export interface Tracing {
  readonly path: string;
  readonly calls: readonly string[];
  readonly inject?: readonly string[];
  /** Of the data that a call moves, so many bytes are shown, as \xNN. Default 0. */
  readonly dataBytes?: number;
}

/** What came of it: the calls in the order they began, whatever the thread. */
export interface Traced {
  readonly stdout: string;
  readonly calls: readonly SystemCall[];
}

/** One thread in libuv's pool: strace counts calls by thread, so that `when=n` is exact. */
export const ONE_THREAD = { UV_THREADPOOL_SIZE: '1' };

const CALL = /^(?<time>[\d.]+) (?<name>\w+)\((?<args>.*)\)\s+= (?<result>-?\d+)/.source;
const END = / ?(?<error>E\w+)?.*?(?: <(?<seconds>[\d.]+)>)?$/.source;
const LINE = new RegExp(CALL + END);
const MICROS_DIGITS = 6;

/** What goes before a command line to run it under strace; the names of its logs begin `output`. */
export function underStrace(tracing: Tracing, output: string): string[] {
  const { path, calls, inject = [], dataBytes = 0 } = tracing;
  const filters = [`trace=${calls.join(',')}`, ...inject.map((fault) => `inject=${fault}`)];
  const data = dataBytes === 0 ? [] : ['-xx'];
  const options = ['-ff', '-qq', '-ttt', '-T', ...data, '-s', String(dataBytes), '-o', output];
  return ['strace', ...options, '-P', path, ...filters.flatMap((filter) => ['-e', filter])];
}

/** Runs a Node script under strace with one thread in libuv's pool. */
export async function strace(script: string, args: string[], tracing: Tracing): Promise<Traced> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-strace-'));
  try {
    const [program = '', ...options] = underStrace(tracing, join(folder, 'calls'));
    const { stdout } = await promisify(execFile)(
      program,
      [...options, process.execPath, script, ...args],
      { env: { ...process.env, ...ONE_THREAD } },
    );
    return { stdout, calls: readCalls(folder, 'calls') };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The calls in the logs `prefix.*`. One log a thread, so no line is torn; times order them. */
export function readCalls(folder: string, prefix: string): SystemCall[] {
  const logs = readdirSync(folder).filter((name) => name.startsWith(`${prefix}.`));
  return logs
    .flatMap((log) => readLog(join(folder, log), log.slice(prefix.length + 1)))
    .sort((a, b) => a.startMicros - b.startMicros);
}

function readLog(path: string, thread: string): SystemCall[] {
  return readFileSync(path, 'latin1')
    .split('\n')
    .map((line) => LINE.exec(line)?.groups)
    .filter((groups) => groups !== undefined)
    .map(({ time = '', name = '', args = '', result, error, seconds = '0' }) => {
      const startMicros = microsOf(time);
      const endMicros = startMicros + microsOf(seconds);
      return { name, args, result: Number(result), error, startMicros, endMicros, thread };
    });
}

/** Decimal seconds with six digits behind the point, exactly. */
function microsOf(seconds: string): number {
  const [whole = '', fraction = ''] = seconds.split('.');
  return Number(whole + fraction.slice(0, MICROS_DIGITS).padEnd(MICROS_DIGITS, '0'));
}
