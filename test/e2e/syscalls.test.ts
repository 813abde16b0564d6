/**
 * What reaches the kernel from a served disk, seen by strace: the flags of the image's descriptors
 * and the syncs, mode by mode; and what sluice does when a sync fails or hangs.
 */
import { readdir, readFile } from 'node:fs/promises';
import { describe, expect, it, type TestContext } from 'vitest';
import type { CacheModeName } from '../../src/cache-mode.ts';
import { Folder, serve, type Serving } from '../cli/sluice.ts';
import { describeWithPeers } from '../support/peers.ts';
import { axesOf, MODES, nbdsh, obstacle } from './image.ts';

const MIB = 2 ** 20;
const CALLS = [
  'openat',
  'pwrite64',
  'pwritev',
  'pwritev2',
  'fallocate',
  'fdatasync',
  'fsync',
  'sync_file_range',
  'syncfs',
  'msync',
];

/** What was called on the image. */
interface ImageCall {
  readonly name: string;
  readonly args: string;
  /** The descriptor, or for openat the one that it made. */
  readonly fd: number;
}

interface TracedServer extends AsyncDisposable {
  readonly image: string;
  readonly pidFile: string;
  readonly server: Serving;
  /** The calls so far, each thread's in order, threads merged by time. */
  calls(): Promise<ImageCall[]>;
}

/** `sluice serve` under strace. Without -t it ends with its last client. */
async function traced(
  context: TestContext,
  mode: CacheModeName,
  { options = [], inject = [] }: { options?: string[]; inject?: string[] } = {},
): Promise<TracedServer> {
  const folder = await Folder.make();
  const reason = obstacle(mode, folder);
  if (reason !== undefined) context.skip(reason);
  const image = await folder.image('disk.img', 4 * MIB);
  const log = folder.file('log');
  const pidFile = folder.file('pid');
  const filters = [`trace=${CALLS.join(',')}`, ...inject.map((fault) => `inject=${fault}`)];
  const strace = ['strace', '-ff', '-qq', '-ttt', '-s', '0', '-o', log, '-P', image];
  const under = [...strace, ...filters.flatMap((filter) => ['-e', filter])];
  const place = ['-k', folder.file('a.sock'), '--pid-file', pidFile];
  // strace does not see what goes by io_uring, as transfers past the page cache may.
  const aio = axesOf(mode).direct ? ['--aio', 'threads'] : [];
  const args = [...options, '--cache', mode, ...aio, ...place, image];
  const server = await serve(args, { under });
  return {
    image,
    pidFile,
    server,
    calls: () => readCalls(folder, 'log'),
    async [Symbol.asyncDispose]() {
      if (server.child.exitCode === null) {
        process.kill(Number(await readFile(pidFile, 'utf8')), 'SIGKILL');
      }
      await server.outcome;
      await folder[Symbol.asyncDispose]();
    },
  };
}

/** The state of a process, as ps(1) shows it. */
async function stateOf(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'latin1');
  return stat[stat.lastIndexOf(')') + 2];
}

const LINE = /^(?<time>[\d.]+) (?<name>\w+)\((?<args>.*)\)\s+= (?<result>-?\d+)/;

async function readCalls(folder: Folder, prefix: string): Promise<ImageCall[]> {
  const files = (await readdir(folder.path)).filter((name) => name.startsWith(`${prefix}.`));
  const texts = await Promise.all(files.map((name) => readFile(folder.file(name), 'latin1')));
  return texts
    .flatMap((text) => text.split('\n'))
    .map((line) => LINE.exec(line)?.groups)
    .filter((groups) => groups !== undefined)
    .sort((a, b) => Number(a['time']) - Number(b['time']))
    .map(({ name = '', args = '', result }) => {
      return { name, args, fd: name === 'openat' ? Number(result) : Number.parseInt(args, 10) };
    });
}

const isWrite = ({ name }: ImageCall): boolean => name.startsWith('pwrite');
const isSync = ({ name }: ImageCall): boolean => /sync/.test(name);

/** 8 writes, one after the other, flushes, a FUA write, a flush. */
const LOAD = `
for block in range(8): h.pwrite(b'w' * 4096, block * 65536)
for flush in range(50): h.flush()
h.pwrite(b'f' * 4096, 1 << 20, nbd.CMD_FLAG_FUA)
for flush in range(50): h.flush()
`;

describeWithPeers(['strace', 'nbdsh'], 'system calls on the image', () => {
  describe.each(MODES)('with --cache %s', (mode) => {
    it('are the flags, writes and syncs that the mode promises', (context) =>
      keepsPromises(mode, context));
  });

  it('without a flush from the client, closing makes the writes stable', async (context) => {
    await using run = await traced(context, 'writeback');
    await nbdsh(run.server.uri, `h.pwrite(b'w' * 4096, 0)`);
    expect(await run.server.outcome).toMatchObject({ code: 0 });
    const calls = (await run.calls()).filter((call) => isWrite(call) || isSync(call));
    expect(calls.map(({ name }) => name.replace(/pwrite.*/, 'pwrite'))).toEqual([
      'pwrite',
      'fdatasync',
    ]);
  });
});

async function keepsPromises(mode: CacheModeName, context: TestContext): Promise<void> {
  const { direct, wce, noFlush } = axesOf(mode);
  await using run = await traced(context, mode);
  await nbdsh(run.server.uri, LOAD);
  expect(await run.server.outcome).toMatchObject({ code: 0 });

  const calls = await run.calls();
  const opens = calls.filter(({ name }) => name === 'openat');
  const writable = opens.filter(({ args }) => args.includes('O_RDWR'));
  expect(writable.map(({ args }) => args.includes('O_DSYNC'))).toEqual(
    noFlush ? [false] : [false, true],
  );
  for (const { args } of writable) expect(args.includes('O_DIRECT')).toBe(direct);

  const [plain, stable] = writable.map(({ fd }) => fd);
  const writes = calls.filter((call) => isWrite(call)).map(({ fd }) => fd);
  const eight = Array<unknown>(8).fill(wce ? plain : stable);
  expect(writes).toEqual([...eight, noFlush ? plain : stable]);

  // 100 flushes, one of which has something to do: the writes before it, or what somebody wrote
  // before the image was opened. Closing adds none.
  const syncs = calls.filter((call) => isSync(call)).map(({ name }) => name);
  expect(syncs).toEqual(noFlush ? [] : ['fdatasync']);
  if (!noFlush) {
    const order = calls.filter((call) => isWrite(call) || isSync(call));
    expect(order.findIndex((call) => isSync(call))).toBe(8);
  }
}

describeWithPeers(['strace', 'nbdsh'], 'a sync', () => {
  it('that fails fails the flush and all later ones, and the exit code', async (context) => {
    await using run = await traced(context, 'writeback', {
      inject: ['fdatasync:error=EIO:when=1'],
    });
    const output = await nbdsh(
      run.server.uri,
      `
h.pwrite(b'w' * 4096, 0)
for attempt in range(3):
    try:
        h.flush()
    except nbd.Error as error:
        print(error.errno)
`,
    );
    expect(output).toBe('EIO\nEIO\nEIO\n');
    const { code, stderr } = await run.server.outcome;
    expect(code).toBe(1);
    const [, ...lines] = stderr.trimEnd().split('\n');
    expect(lines).toEqual([expect.stringMatching(/^sluice: .* \(ERR_SLUICE_FLUSH_LATCHED\)$/)]);
  });

  it('that fails at the end gives exit code 1 and its reason', async (context) => {
    await using run = await traced(context, 'writeback', { inject: ['fdatasync:error=ENOSPC'] });
    await nbdsh(run.server.uri, `h.pwrite(b'w' * 4096, 0)`);
    const { code, stderr } = await run.server.outcome;
    expect(code).toBe(1);
    const [, ...lines] = stderr.trimEnd().split('\n');
    expect(lines).toEqual([expect.stringMatching(/^sluice: .* \(ERR_SLUICE_[A-Z_]+\)$/)]);
  });

  it('that hangs is waited for by SIGTERM, and not by a second one', async (context) => {
    await using run = await traced(context, 'writeback', {
      options: ['-t'],
      inject: ['fdatasync:delay_enter=8000000'],
    });
    await nbdsh(run.server.uri, `h.pwrite(b'w' * 4096, 0)`);
    const pid = Number(await readFile(run.pidFile, 'utf8'));
    process.kill(pid, 'SIGTERM');
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(run.server.child.exitCode).toBe(null);
    process.kill(pid, 'SIGTERM');
    // It has ended; only strace still holds the thread that it delays.
    await expect.poll(() => stateOf(pid), { timeout: 3000 }).toBe('Z');
    const { code, stderr } = await run.server.outcome;
    expect(code).toBe(130);
    // strace may add a line of its own.
    expect(stderr.split('\n')).toContain('sluice: gave up: the last flush was not finished');
  });
});
