import { readFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NBD_CMD_READ, NBD_CMD_WRITE, NbdClient } from './nbd-client.ts';
import { exists, Folder, run, Running, sluice, SLUICE, until } from './sluice.ts';

let folder: Folder;
let image: string;
let socket: string;
let pidFile: string;
let uri: string;
beforeEach(async () => {
  folder = await Folder.make();
  image = await folder.image('disk.img', 2 ** 20);
  socket = folder.file('a.sock');
  pidFile = folder.file('pid');
  uri = `nbd+unix:///?socket=${socket}`;
});
afterEach(() => folder[Symbol.asyncDispose]());

function runs(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

/** The server that wrote the pid file. */
class Forked implements AsyncDisposable {
  readonly pid: number;

  constructor(pid: number) {
    this.pid = pid;
  }

  static async find(): Promise<Forked> {
    return new Forked(Number(await readFile(pidFile, 'utf8')));
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    process.kill(this.pid, signal);
    await until(() => !runs(this.pid));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (runs(this.pid)) await this.stop('SIGKILL');
  }
}

/** Processes whose command line names this test's folder. */
async function serversOfFolder(): Promise<string> {
  const { stdout } = await run('pgrep', ['-f', '--', `serve.*${folder.path}`]);
  return stdout;
}

describe('sluice serve --fork', () => {
  it('returns when clients can connect, and the server goes on until SIGTERM', async () => {
    const args = ['serve', '--fork', '-t', '-k', socket, '--pid-file', pidFile];
    // The value of an option may look like --fork.
    const outcome = await sluice([...args, '-D', '--fork', image]);
    await using server = await Forked.find();
    expect(outcome).toEqual({ code: 0, signal: null, stdout: '', stderr: `${uri}\n` });
    for (const text of ['here', 'more']) {
      await using client = await NbdClient.connect(uri);
      await client.request(NBD_CMD_WRITE, 4096, 4, Buffer.from(text));
      expect((await client.request(NBD_CMD_READ, 4096, 4)).toString()).toBe(text);
    }
    const stat = await readFile(`/proc/${server.pid}/stat`, 'latin1');
    expect(Number(stat.slice(stat.lastIndexOf(')')).split(' ')[4])).toBe(server.pid);
    await server.stop();
    expect([await exists(socket), await exists(pidFile)]).toEqual([false, false]);
  });

  it('ends without -t with its last client', async () => {
    const args = ['serve', '--fork', '-k', socket, '--pid-file', pidFile, image];
    expect(await sluice(args)).toMatchObject({ code: 0 });
    await using server = await Forked.find();
    await (await NbdClient.connect(uri))[Symbol.asyncDispose]();
    await until(() => !runs(server.pid));
    expect([await exists(socket), await exists(pidFile)]).toEqual([false, false]);
  });

  it('does not keep the pipes of a command substitution open', async () => {
    const script = 'out=$("$@" 2>&1); echo "$? [$out]"';
    const command = [process.execPath, SLUICE, 'serve', '--fork', '-t', '-k', socket];
    const args = ['-c', script, 'sh', ...command, '--pid-file', pidFile, image];
    const outcome = await run('sh', args);
    await using _server = await Forked.find();
    expect(outcome).toMatchObject({ code: 0, stdout: `0 [${uri}]\n`, stderr: '' });
  });

  it('says why it cannot serve, exits with 1 and leaves nothing behind', async () => {
    const args = ['-k', socket, '--pid-file', pidFile, folder.file('none.img')];
    const usual = await sluice(['serve', ...args]);
    expect(usual).toMatchObject({ code: 1, stdout: '' });
    expect(await sluice(['serve', '--fork', ...args])).toEqual(usual);
    expect([await exists(socket), await exists(pidFile)]).toEqual([false, false]);
    expect(await serversOfFolder()).toBe('');
  });

  it.each(['SIGINT', 'SIGTERM', 'SIGKILL'] as const)(
    'takes the server with it when %s ends it before clients can connect',
    async (signal) => {
      // The server waits for a reader of the pid file.
      await run('mkfifo', [pidFile]);
      const args = ['serve', '--fork', '-t', '-k', socket, '--pid-file', pidFile, image];
      await using command = new Running(process.execPath, [SLUICE, ...args]);
      await until(() => exists(socket));
      command.child.kill(signal);
      const { code, stderr } = await command.outcome;
      expect(stderr).toBe('');
      expect(code).toBe({ SIGINT: 130, SIGTERM: 143, SIGKILL: null }[signal]);
      await until(async () => (await serversOfFolder()) === '');
    },
  );

  it('tells what signal ended the server before clients could connect', async () => {
    await run('mkfifo', [pidFile]);
    const args = ['serve', '--fork', '-t', '-k', socket, '--pid-file', pidFile, image];
    await using command = new Running(process.execPath, [SLUICE, ...args]);
    await until(() => exists(socket));
    const pids = (await serversOfFolder()).trim().split('\n').map(Number);
    const server = pids.find((pid) => pid !== command.child.pid)!;
    process.kill(server, 'SIGKILL');
    const stderr = 'sluice: the server was ended by SIGKILL\n';
    expect(await command.outcome).toMatchObject({ code: 137, stderr });
  });
});
