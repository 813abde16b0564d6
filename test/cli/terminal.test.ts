import { existsSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it, type TestContext } from 'vitest';
import { statusTexts, sumOf, summaryText } from '../../src/cli/activity.ts';
import { formatBytes, formatCount } from '../../src/cli/format.ts';
import { Refusal } from '../../src/cli/refusal.ts';
import { reportLines } from '../../src/cli/report.ts';
import { SluiceError } from '../../src/errors.ts';
import type { DiskStats } from '../../src/stats.ts';
import { NBD_CMD_FLUSH, NBD_CMD_WRITE, NbdClient } from './nbd-client.ts';
import { Folder, hasScript, Running, serve, SLUICE } from './sluice.ts';

const NO_STATS: DiskStats = {
  requests: {
    read: 0,
    write: 0,
    writeZeroes: 0,
    discard: 0,
    blockStatus: 0,
    flush: 0,
    refused: 0,
  },
  bytesRead: 0,
  bytesWritten: 0,
  commands: 0,
  merged: 0,
  superseded: 0,
  expired: 0,
  ordered: 0,
  reissued: 0,
  flushes: { received: 0, elided: 0, coalesced: 0 },
  barriers: { received: 0, flushed: 0 },
  aborted: 0,
  syncs: 0,
  syncsFailed: 0,
  syncsDelayed: 0,
  groupCommits: 0,
};

const ESCAPE = String.fromCharCode(27);
const ERASE = `\r${ESCAPE}[K`;

let folder: Folder;
beforeEach(async () => {
  folder = await Folder.make();
});
afterEach(() => folder[Symbol.asyncDispose]());

/** A server on a pseudo terminal of `columns`; what it shows is in `stdout`. */
class OnTerminal extends Running {
  constructor(context: TestContext, args: readonly string[], columns = 160, env = {}) {
    if (!hasScript()) context.skip('needs script (Debian package bsdutils)');
    const words = [process.execPath, SLUICE, 'serve', ...args].map((word) => `'${word}'`);
    // `exec`: script reports the exit code, and signals reach sluice and no shell.
    const command = `stty cols ${columns} && echo $$ && exec ${words.join(' ')}`;
    super('script', ['-qec', command, '/dev/null'], {
      env: { TERM: 'xterm', ...env },
      input: null,
    });
  }

  type(keys: string): void {
    this.child.stdin?.write(keys);
  }

  /** Sends a signal to sluice itself. */
  async signal(signal: NodeJS.Signals): Promise<void> {
    const [, pid] = await this.shows(/^(\d+)\r\n/);
    process.kill(Number(pid), signal);
  }
}

describe('on a terminal, sluice serve', () => {
  it('says after the URI what to type next', async (context) => {
    const image = await folder.image('disk.img', 2 ** 30);
    const socket = folder.file('a.sock');
    await using server = new OnTerminal(context, ['-t', '-k', socket, image]);
    await server.shows(/qemu-system-x86_64.*\r\n/);
    const [, uri, about, ...commands] = server.stdout.trimEnd().split('\r\n');
    expect(uri).toBe(`nbd+unix:///?socket=${socket}`);
    expect(about).toContain('1 GiB, cache=writeback, read-write; Ctrl-C ends it. Try:');
    expect(commands.slice(0, 2).map((line) => plain(line))).toEqual([
      `  nbdinfo '${uri}'`,
      `  nbdcopy '${uri}' copy.img`,
    ]);
  });

  it('shows in one line what it does, and totals at the end', async (context) => {
    const image = await folder.image('disk.img', 2 ** 20);
    const args = ['-t', '-f', 'raw', '-k', folder.file('a.sock'), image];
    await using server = new OnTerminal(context, args);
    const [, uri] = await server.shows(/(nbd\+unix:\S+)\r\n/);
    {
      await using client = await NbdClient.connect(uri!);
      await client.request(NBD_CMD_WRITE, 0, 4096, new Uint8Array(4096));
      await client.request(NBD_CMD_FLUSH);
      await client.request(NBD_CMD_FLUSH);
      await server.shows(
        /\r[^\r\n]*req\/s, .*2 flushes \(1 elided, 0 coalesced\), 1 sync, 1 client/,
      );
    }
    await server.signal('SIGTERM');
    const { code, stdout } = await server.outcome;
    expect(code).toBe(0);
    const end = stdout.slice(stdout.lastIndexOf(ERASE) + ERASE.length);
    expect(end).toMatch(
      /^3 requests in \d+\.\d s, read 0 B, written 4 KiB, 0 merged, 2 flushes \(1 elided, .*\r\n$/,
    );
  });

  it('cuts the line to the width of the terminal', async (context) => {
    const image = await folder.image('disk.img', 2 ** 20);
    await using server = new OnTerminal(context, ['-t', '-k', folder.file('a.sock'), image], 24);
    const [, line] = await server.shows(new RegExp(`\r([^\r\n]*/s [^\r\n]*)${ESCAPE}\\[K`));
    expect(plain(line!)).toHaveLength(23);
  });

  it('uses no colours with NO_COLOR, and draws nothing with TERM=dumb', async (context) => {
    const image = await folder.image('disk.img', 2 ** 20);
    const args = ['-t', '-k', folder.file('a.sock'), image];
    {
      await using server = new OnTerminal(context, args, 160, { NO_COLOR: '1' });
      await server.shows(/req\/s/);
      await server.signal('SIGTERM');
      const { stdout } = await server.outcome;
      expect(stdout).not.toContain(`${ESCAPE}[2m`);
    }
    await using server = new OnTerminal(context, args, 160, { TERM: 'dumb' });
    await server.shows(/nbd\+unix:\S+\r\n/);
    await new Promise((resolve) => setTimeout(resolve, 700));
    await server.signal('SIGTERM');
    const { stdout } = await server.outcome;
    expect(stdout.split('\r\n').slice(1)).toEqual([expect.stringMatching(/^nbd\+unix:/), '']);
  });

  it('ends with Ctrl-C', async (context) => {
    const image = await folder.image('disk.img', 2 ** 20);
    await using server = new OnTerminal(context, ['-t', '-k', folder.file('a.sock'), image]);
    await server.shows(/req\/s/);
    server.type('\x03');
    expect(await server.outcome).toMatchObject({ code: 0 });
  });

  it('serves on while the terminal is stopped (Ctrl-S)', async (context) => {
    const image = await folder.image('disk.img', 2 ** 20);
    await using server = new OnTerminal(context, ['-t', '-k', folder.file('a.sock'), image]);
    const [uri] = await server.shows(/nbd\+unix:\S+(?=\r\n)/);
    await server.shows(/req\/s/);
    server.type('\x13');
    await new Promise((resolve) => setTimeout(resolve, 1200));
    const shown = server.stdout.length;
    {
      await using client = await NbdClient.connect(uri);
      await client.request(NBD_CMD_WRITE, 0, 4096, new Uint8Array(4096));
      await client.request(NBD_CMD_FLUSH);
    }
    expect(server.stdout.length).toBe(shown);
    server.type('\x11');
    await server.shows(/1 sync/);
    server.type('\x03');
    expect(await server.outcome).toMatchObject({ code: 0 });
  });

  it('ends in good order when the terminal goes away', async (context) => {
    const image = await folder.image('disk.img', 2 ** 20);
    const socket = folder.file('a.sock');
    const pidFile = folder.file('pid');
    const options = ['-t', '-k', socket, '--pid-file', pidFile];
    await using server = new OnTerminal(context, [...options, image]);
    await server.shows(/req\/s/);
    await server.stop('SIGKILL'); // script holds the other end of the terminal
    const left = (): boolean => existsSync(socket) || existsSync(pidFile);
    await expect.poll(left, { timeout: 5000 }).toBe(false);
  });
});

describe('in a pipe, sluice serve', () => {
  it('says the URI and nothing else', async () => {
    const image = await folder.image('disk.img', 2 ** 20);
    await using server = await serve(['-t', '-k', folder.file('a.sock'), image]);
    {
      await using client = await NbdClient.connect(server.uri);
      await client.request(NBD_CMD_FLUSH);
    }
    await new Promise((resolve) => setTimeout(resolve, 700));
    const outcome = await server.stop();
    expect(outcome).toMatchObject({ code: 0, stdout: '', stderr: `${server.uri}\n` });
  });

  it('goes on when the reader of stderr goes away', async () => {
    const image = await folder.image('disk.img', 2 ** 20);
    await using server = await serve(['-t', '-k', folder.file('a.sock'), image]);
    server.child.stderr?.destroy();
    await using client = await NbdClient.connect(server.uri);
    await client.request(NBD_CMD_FLUSH);
  });

  it('works with closed standard streams', async () => {
    const image = await folder.image('disk.img', 2 ** 20);
    const socket = folder.file('a.sock');
    const words = [process.execPath, SLUICE, 'serve', '-k', socket, image];
    await using shell = new Running('sh', ['-c', 'exec "$@" <&- >&- 2>&-', 'sh', ...words]);
    {
      await using client = await firstClient(`nbd+unix:///?socket=${socket}`, shell);
      await client.request(NBD_CMD_FLUSH);
    }
    expect(await shell.outcome).toMatchObject({ code: 0 });
  });
});

/** A client of a server that says nothing when it is ready. */
async function firstClient(uri: string, server: Running): Promise<NbdClient> {
  for (;;) {
    const client = await NbdClient.connect(uri).catch(() => undefined);
    if (client !== undefined) return client;
    if (server.child.exitCode !== null) throw new Error('it ended');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function plain(text: string): string {
  return text.replaceAll(new RegExp(`${ESCAPE}\\[\\d*[mK]`, 'g'), '');
}

describe('numbers for people', () => {
  it.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1536, '1.5 KiB'],
    [2 ** 30, '1 GiB'],
    [2 ** 80, '1048576 EiB'],
  ])('%d bytes are %s', (bytes, text) => expect(formatBytes(bytes)).toBe(text));

  it.each([
    [0, '0'],
    [999.4, '999'],
    [99_960, '100k'],
    [1000, '1.0k'],
    [12_345, '12.3k'],
    [999_960, '1.0M'],
  ])('a count of %d is %s', (count, text) => expect(formatCount(count)).toBe(text));
});

describe('the status line', () => {
  const requests = { ...NO_STATS.requests, read: 300, write: 200 };
  const stats: DiskStats = {
    ...NO_STATS,
    requests,
    bytesRead: 3 * 2 ** 20,
    bytesWritten: 2 ** 20,
    merged: 7,
    flushes: { received: 9, elided: 4, coalesced: 3 },
    syncs: 2,
  };

  it('has rates since the last one and counts since the start', () => {
    const before = { atMs: 1000, counts: sumOf([NO_STATS]) };
    expect(statusTexts(before, { atMs: 1500, counts: sumOf([stats]) }, 2)).toEqual([
      '1.0k req/s, read 6.0 MiB/s, write 2.0 MiB/s, 7 merged, ' +
        '9 flushes (4 elided, 3 coalesced), 2 syncs, 2 clients',
      '1.0k/s r6.0 w2.0 MiB/s 7 merged 9/4/3 flush 2 sync 2 clients',
    ]);
  });

  it('fits 80 columns in its short form, on a busy day', () => {
    const busy: DiskStats = {
      ...stats,
      requests: { ...requests, read: 6200 },
      bytesRead: 480 * 2 ** 20,
      bytesWritten: 12 * 2 ** 20,
      merged: 12_345,
      flushes: { received: 3400, elided: 550, coalesced: 720 },
      syncs: 2130,
    };
    const before = { atMs: 1000, counts: sumOf([NO_STATS]) };
    const [, short] = statusTexts(before, { atMs: 1500, counts: sumOf([busy]) }, 16);
    expect(short).toBe(
      '12.8k/s r960 w24.0 MiB/s 12.3k merged 3.4k/550/720 flush 2.1k sync 16 clients',
    );
    expect(short?.length).toBeLessThan(80);
  });

  it('counts several disks as one', () => {
    const before = { atMs: 1000, counts: sumOf([NO_STATS, NO_STATS]) };
    const [long] = statusTexts(before, { atMs: 1500, counts: sumOf([stats, stats]) }, 1);
    expect(long).toBe(
      '2.0k req/s, read 12.0 MiB/s, write 4.0 MiB/s, 14 merged, ' +
        '18 flushes (8 elided, 6 coalesced), 4 syncs, 1 client',
    );
  });

  it('has a summary', () => {
    const start = { atMs: 0, counts: sumOf([NO_STATS]) };
    expect(summaryText(start, { atMs: 12_340, counts: sumOf([stats]) })).toBe(
      '500 requests in 12.3 s, read 3 MiB, written 1 MiB, 7 merged, ' +
        '9 flushes (4 elided, 3 coalesced), 2 syncs',
    );
  });
});

describe('what is reported of an error', () => {
  it('is its message and code on one line, in the words of the command line', () => {
    const text = "it is locked;\n pass lock: 'none' if you know that it is safe";
    expect(reportLines(new SluiceError('ERR_SLUICE_LOCKED', text))).toEqual([
      'it is locked; pass --no-lock (serve, vhost-user) or -U (verbs that only read) if you know ' +
        'that it is safe (ERR_SLUICE_LOCKED)',
    ]);
  });

  it('is both errors when closing failed as well', () => {
    const first = new SluiceError('ERR_SLUICE_IO', 'first');
    const second = new SluiceError('ERR_SLUICE_IO', 'second');
    const both = Object.assign(new Error('both'), { error: second, suppressed: first });
    expect(reportLines(both)).toEqual(['first (ERR_SLUICE_IO)', 'second (ERR_SLUICE_IO)']);
  });

  it('is the stack of a defect', () => {
    const [line] = reportLines(new TypeError('x is not a function'));
    expect(line).toMatch(/^TypeError: x is not a function \| at /);
  });

  it("has the system's words for a system error", () => {
    const cause = Object.assign(new Error('listen EADDRINUSE'), { code: 'EADDRINUSE', errno: -98 });
    expect(reportLines(new Refusal('listen on x', cause, 'try y'))).toEqual([
      'cannot listen on x: address already in use; try y (EADDRINUSE)',
    ]);
  });
});
