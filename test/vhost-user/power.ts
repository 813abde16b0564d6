/**
 * A disk that forgets, when its power is cut, what was not synced: a file in FUSE, over NBD, over a
 * cache in the memory of nbdkit, which is killed.
 */
import { existsSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { Folder, run, Running } from '../cli/sluice.ts';

const POLL_MS = 20;
/** nbdfuse needs the second where it is not root. It would unmount by itself, but not always. */
const UNMOUNT = process.getuid?.() === 0 ? ['umount', '-l'] : ['fusermount3', '-u', '-z'];
const WAIT_AND_MOUNT = 'until [ -S "$2" ]; do sleep 0.05; done; exec nbdfuse "$1" --unix "$2"';

/** Why there can be no such disk here; undefined when there can. */
export async function powerObstacle(): Promise<string | undefined> {
  await using folder = await Folder.make();
  try {
    await using disk = await VolatileDisk.mount(folder, await folder.image('disk.img', 4096));
    return existsSync(disk.path) ? undefined : 'FUSE mounts nothing';
  } catch (error) {
    return `needs FUSE: ${String(error)}`;
  }
}

export class VolatileDisk implements AsyncDisposable {
  /** What is served. */
  readonly path: string;
  readonly #nbdkit: Running;
  readonly #fuse: Running;

  private constructor(path: string, socket: string, image: string) {
    this.path = path;
    const cache = ['--filter=cache', 'file', image, 'cache=writeback'];
    this.#nbdkit = new Running('nbdkit', ['-f', '-U', socket, ...cache]);
    this.#fuse = new Running('sh', ['-c', WAIT_AND_MOUNT, 'sh', path, socket]);
  }

  /** Over an image, whose contents are those that are stable. */
  static async mount(folder: Folder, image: string): Promise<VolatileDisk> {
    const socket = folder.file('nbd.sock');
    await mkdir(folder.file('mounted'), { recursive: true });
    // The last one was killed, and has left it.
    await rm(socket, { force: true });
    const disk = new VolatileDisk(folder.file('mounted/disk'), socket, image);
    while (!existsSync(disk.path)) {
      if (disk.#fuse.child.exitCode !== null) throw new Error(disk.#fuse.stderr);
      await sleep(POLL_MS);
    }
    return disk;
  }

  async cutPower(): Promise<void> {
    await this.#nbdkit.stop('SIGKILL');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cutPower();
    const [program = '', ...options] = UNMOUNT;
    await run(program, [...options, dirname(this.path)]);
    await this.#fuse.stop('SIGKILL');
  }
}
