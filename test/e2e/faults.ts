/**
 * `sluice serve` on an image whose system calls fail on cue (strace), and a client in Python that
 * writes down what it was told.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, type TestContext } from 'vitest';
import type { CacheModeName } from '../../src/cache-mode.ts';
import { Folder, type Outcome, serve, type Serving } from '../cli/sluice.ts';
import { ONE_THREAD, readCalls, type SystemCall, underStrace } from '../support/strace.ts';
import { nbdsh, obstacle } from './image.ts';

export const MIB = 2 ** 20;
const CALLS = [
  'openat',
  'pread64',
  'preadv',
  'preadv2',
  'pwrite64',
  'pwritev',
  'pwritev2',
  'fallocate',
  'fdatasync',
  'close',
];

/** Modes with syncs and without, through the page cache and around it. */
export const PLAIN_MODES = ['writeback', 'none'] as const;
export const STABLE_MODES = ['writethrough', 'directsync'] as const;

/** What an image is full of before anybody writes. */
export const ORIGINAL = 'o';

/** How a disk is served, and what goes wrong. */
export interface Faults {
  readonly cache: CacheModeName;
  /** For strace's `inject`. Counts are of one thread: the main one, or the one of the pool. */
  readonly inject?: readonly string[];
  /** More options of `sluice serve`. Without -t it ends with its last client. */
  readonly options?: readonly string[];
  /** A command line that runs the server, such as one that sets limits. */
  readonly under?: readonly string[];
  /** An image elsewhere; default: a new one. */
  readonly image?: string;
  /** What a new image has in it. Default: 1 MiB of ORIGINAL. */
  readonly contents?: Uint8Array;
  /** Of the data that calls move, so much is in their arguments. */
  readonly dataBytes?: number;
  readonly poolThreads?: number;
}

/**
 * For scripts: `say` writes an answer down, `attempt` answers 'ok' or the name of the error,
 * `later_write` and `later_flush` begin a request and `wait` waits for it, `together` does so with
 * several at once, `seen` answers which bytes are in a range.
 */
const PRELUDE = `
import errno, json, os, signal, time
said = {}
MICROS = lambda: time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000
class Later:
    def __init__(self, start, *arguments, flags=0):
        self.answer, self.began, self.ended = None, MICROS(), None
        start(*arguments, self.done, flags)
    def done(self, error):
        self.answer, self.ended = errno.errorcode[error.value] if error.value else 'ok', MICROS()
        return 1
def later_write(byte, offset, length=4096, flags=0):
    data = nbd.Buffer.from_bytearray(bytearray(byte * length))
    return Later(h.aio_pwrite, data, offset, flags=flags)
def later_flush(): return Later(h.aio_flush)
def wait(*requests):
    while any(request.answer is None for request in requests): h.poll(-1)
    return [request.answer for request in requests]
def together(begin):
    """The requests that begin() makes reach the server in one piece: it sleeps meanwhile."""
    os.kill(PID, signal.SIGSTOP)
    while open(f'/proc/{PID}/stat').read().rsplit(') ')[-1][0] not in 'Tt': time.sleep(0.001)
    requests = begin()
    os.kill(PID, signal.SIGCONT)
    return wait(*requests)
def attempt(call, *arguments):
    try: call(*arguments)
    except nbd.Error as error: return error.errno
    return 'ok'
def write(byte, offset, length=4096, flags=0):
    return attempt(h.pwrite, byte * length, offset, flags)
def flush(): return attempt(h.flush)
def seen(offset, length=4096):
    try: return ''.join(map(chr, sorted(set(h.pread(length, offset)))))
    except nbd.Error as error: return error.errno
def say(**answers): said.update(answers)
FUA = nbd.CMD_FLAG_FUA
`;

/** A server under strace. */
export class Faulty implements AsyncDisposable {
  readonly folder: Folder;
  readonly image: string;
  readonly server: Serving;

  private constructor(folder: Folder, image: string, server: Serving) {
    this.folder = folder;
    this.image = image;
    this.server = server;
  }

  /** Serves; skips the test where the mode cannot be had. */
  static async serve(context: TestContext, faults: Faults): Promise<Faulty> {
    const folder = await Folder.make();
    const reason = faults.image === undefined ? obstacle(faults.cache, folder) : undefined;
    if (reason !== undefined) {
      await folder[Symbol.asyncDispose]();
      context.skip(reason);
    }
    const image = faults.image ?? (await originalImage(folder, folder.path, faults.contents));
    const { inject = [], dataBytes = 0 } = faults;
    const tracing = { path: image, calls: CALLS, inject, dataBytes };
    const under = [...(faults.under ?? []), ...underStrace(tracing, folder.file('calls'))];
    const place = ['-k', folder.file('a.sock'), '--pid-file', folder.file('pid')];
    // strace counts the calls of each thread.
    const on = ['--aio', 'threads', ...(faults.options ?? [])];
    const args = ['-f', 'raw', '--cache', faults.cache, ...place, ...on];
    const { poolThreads } = faults;
    const env =
      poolThreads === undefined ? ONE_THREAD : { UV_THREADPOOL_SIZE: String(poolThreads) };
    try {
      return new Faulty(folder, image, await serve([...args, image], { under, env }));
    } catch (error) {
      await folder[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Runs a script with `h` connected; answers what it said. */
  async client(script: string): Promise<Record<string, unknown>> {
    const text = await nbdsh(
      this.server.uri,
      `PID = ${await this.pid()}\n${PRELUDE}${script}\nprint('said ' + json.dumps(said))`,
    );
    return JSON.parse(text.slice(text.lastIndexOf('said ') + 5)) as Record<string, unknown>;
  }

  /** The process id of the server, which is not the one of strace. */
  async pid(): Promise<number> {
    return Number(await readFile(this.folder.file('pid'), 'utf8'));
  }

  /** The calls on the image so far. */
  calls(...names: string[]): SystemCall[] {
    const calls = readCalls(this.folder.path, 'calls');
    return names.length === 0 ? calls : calls.filter(({ name }) => names.includes(name));
  }

  /** Waits for the end that came with the last client: exit code, and what stderr says of it. */
  async end(): Promise<Pick<Outcome, 'code'> & { readonly errors: readonly string[] }> {
    const { code, stderr } = await this.server.outcome;
    const [, ...lines] = stderr.trimEnd().split('\n');
    // It says when the latch shuts, if it lives long enough.
    const errors = lines.filter((line) => !line.startsWith(LATCH_WARNING));
    return { code, errors };
  }

  /** The bytes of the image in pieces of 4 KiB: the letters that each has, sorted. */
  async blocks(): Promise<string[]> {
    return blocksOf(this.image);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.server.child.exitCode === null && this.server.child.signalCode === null) {
      process.kill(await this.pid(), 'SIGKILL');
    }
    await this.server.outcome;
    await this.folder[Symbol.asyncDispose]();
  }
}

/** Which letters are in each 4 KiB of a file. */
export async function blocksOf(image: string): Promise<string[]> {
  const bytes = await readFile(image);
  const blocks: string[] = [];
  for (let at = 0; at < bytes.length; at += 4096) {
    const codes = [...new Set(bytes.subarray(at, at + 4096))].sort((a, b) => a - b);
    blocks.push(String.fromCharCode(...codes));
  }
  return blocks;
}

/** The blocks of such an image that was changed in these places only. */
export function changed(blocks: Record<number, string>): string[] {
  return Array.from({ length: MIB / 4096 }, (_, block) => blocks[block] ?? ORIGINAL);
}

/** An image, of 1 MiB full of ORIGINAL unless told otherwise. */
export async function originalImage(
  folder: Folder,
  parent = folder.path,
  contents: Uint8Array = Buffer.alloc(MIB, ORIGINAL),
): Promise<string> {
  const image = join(parent, 'disk.img');
  await writeFile(image, contents);
  return image;
}

/** The end of a server that had nothing to hide. */
export const CLEAN_END = { code: 0, errors: [] };

/** What a server says when a sync has failed. */
const LATCH_WARNING = 'sluice: warning: a sync of the image failed';

/** The end of a server whose sync had failed: V3 of the command, README. */
export const LATCHED_END = {
  code: 1,
  errors: [expect.stringMatching(/^sluice: .* \(ERR_SLUICE_FLUSH_LATCHED\)$/)],
};
