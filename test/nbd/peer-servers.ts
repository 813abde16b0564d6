/** The servers that people have, each on a socket of its own, for tests of the client. */

import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Running } from '../cli/sluice.ts';

/** A server that runs; disposing ends it. */
export interface PeerServer extends AsyncDisposable {
  readonly uri: string;
  /** Where it listens, unless that is a port. */
  readonly socket: string;
  readonly program: Running;
}

const LONGEST_START_MS = 20_000;

/** Servers write the file of their id when clients can connect. */
async function start(
  program: string,
  args: (socket: string, pidFile: string) => string[],
  uriAt = (socket: string): string => `nbd+unix:///?socket=${socket}`,
): Promise<PeerServer> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-peer-'));
  const socket = join(folder, 'socket');
  const pidFile = join(folder, 'pid');
  const running = new Running(program, args(socket, pidFile));
  const started = Date.now();
  while (!existsSync(pidFile)) {
    if (running.child.exitCode !== null || Date.now() - started > LONGEST_START_MS) {
      throw new Error(`${program} did not start: ${JSON.stringify(await running.stop('SIGKILL'))}`);
    }
    await sleep(5);
  }
  return {
    uri: uriAt(socket),
    socket,
    program: running,
    async [Symbol.asyncDispose]() {
      await running.stop('SIGKILL');
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** `nbdkit ARGS`, in the foreground. */
export function nbdkit(...args: string[]): Promise<PeerServer> {
  return start('nbdkit', (socket, pid) => ['-f', '-U', socket, '-P', pid, ...args]);
}

/** The same on a port of this machine. */
export async function nbdkitTcp(...args: string[]): Promise<PeerServer> {
  const port = await freePort();
  const place = ['-i', '127.0.0.1', '-p', port];
  return start('nbdkit', (_, pid) => ['-f', ...place, '-P', pid, ...args], onPort(port));
}

const QEMU_NBD = ['-t', '-e', '16', '-x', ''];

/** `qemu-nbd ARGS FILE`, for any number of clients. */
export function qemuNbd(...args: string[]): Promise<PeerServer> {
  return start('qemu-nbd', (socket, pid) => {
    return [...QEMU_NBD, '-k', socket, '--pid-file', pid, ...args];
  });
}

/** The same on a port of this machine. */
export async function qemuNbdTcp(...args: string[]): Promise<PeerServer> {
  const port = await freePort();
  const place = ['-b', '127.0.0.1', '-p', port];
  const program = (_: string, pid: string): string[] => {
    return [...QEMU_NBD, ...place, '--pid-file', pid, ...args];
  };
  return start('qemu-nbd', program, onPort(port));
}

const onPort = (port: string) => (): string => `nbd://127.0.0.1:${port}/`;

/** A port that nobody has; these programs do not choose one themselves. */
async function freePort(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return String(port);
}
