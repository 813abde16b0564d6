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
}

/** What to trace, and which faults to put into it (strace's `inject`, without the keyword). */
export interface Tracing {
  readonly path: string;
  readonly calls: readonly string[];
  readonly inject?: readonly string[];
}

/** What came of it: the calls in the order they began, whatever the thread. */
export interface Traced {
  readonly stdout: string;
  readonly calls: readonly SystemCall[];
}

const LINE =
  /^(?<time>[\d.]+) (?<name>\w+)\((?<args>.*)\)\s+= (?<result>-?\d+)(?: (?<error>E\w+))?/;

/** Runs a Node script under strace with one thread in libuv's pool, so that counts are exact. */
export async function strace(script: string, args: string[], tracing: Tracing): Promise<Traced> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-strace-'));
  const output = join(folder, 'calls');
  const filters = [`trace=${tracing.calls.join(',')}`, ...injections(tracing)];
  const options = ['-ff', '-qq', '-ttt', '-s', '0', '-o', output, '-P', tracing.path];
  const expressions = filters.flatMap((filter) => ['-e', filter]);
  try {
    const { stdout } = await promisify(execFile)(
      'strace',
      [...options, ...expressions, process.execPath, script, ...args],
      { env: { ...process.env, UV_THREADPOOL_SIZE: '1' } },
    );
    return { stdout, calls: readCalls(folder) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function injections({ inject = [] }: Tracing): string[] {
  return inject.map((fault) => `inject=${fault}`);
}

/** One file per thread, so no line is torn; the times put them in order. */
function readCalls(folder: string): SystemCall[] {
  const lines = readdirSync(folder).flatMap((file) =>
    readFileSync(join(folder, file), 'latin1').split('\n'),
  );
  return lines
    .map((line) => LINE.exec(line)?.groups)
    .filter((groups) => groups !== undefined)
    .sort((a, b) => Number(a['time']) - Number(b['time']))
    .map(({ name = '', args = '', result, error }) => ({
      name,
      args,
      result: Number(result),
      error,
    }));
}
