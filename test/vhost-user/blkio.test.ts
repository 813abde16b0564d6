// libblkio, whose driver is neither Linux's nor QEMU's: its guest addresses are those of its own
// process, it needs memory slots, and its memory comes and goes.

import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

import { guestFolder } from '../../scripts/guests.mjs';
import { Folder, Running, succeed } from '../cli/sluice.ts';
import { describeWithGuest } from '../support/guests.ts';
import { BackEnd } from './back-end.ts';

const CLIENT = fileURLToPath(new URL('blkio.mjs', import.meta.url));
const LIBRARY = join(guestFolder('blkio'), 'lib/libblkio.so.1');
const SIZE_BYTES = 8 << 20;
const BLOCK_BYTES = 64 << 10;

const clientOf = (socket: string, rounds: number): string[] => [
  CLIENT,
  LIBRARY,
  socket,
  String(rounds),
];

describeWithGuest('blkio', [], 'libblkio', () => {
  it('writes, flushes, reads, discards and zeroes, with memory that comes and goes', async () => {
    await using folder = await Folder.make();
    const image = await folder.image('disk.img', SIZE_BYTES);
    await using backEnd = await BackEnd.serve(folder, ['--num-queues', '2', image]);
    const said = await succeed(process.execPath, clientOf(backEnd.socket, 200));
    expect(JSON.parse(said)).toEqual({ capacity: SIZE_BYTES, rounds: 200 });
    expect(await backEnd.stop()).toMatchObject({ code: 0 });
    expect(backEnd.complaints).toBe('');
    expect(await blocksWithData(image)).toEqual([true, true, false, true, false, true]);
  });

  it('may be killed at any moment: the next one is served', async () => {
    await using folder = await Folder.make();
    const image = await folder.image('disk.img', SIZE_BYTES);
    await using backEnd = await BackEnd.serve(folder, ['--num-queues', '2', image]);
    for (let waitMs = 100; waitMs <= 400; waitMs += 50) {
      await using client = new Running(process.execPath, clientOf(backEnd.socket, 1_000_000));
      await new Promise((resolve) => setTimeout(resolve, waitMs));
      await client.stop('SIGKILL');
    }
    await succeed(process.execPath, clientOf(backEnd.socket, 1));
    expect(await backEnd.stop()).toMatchObject({ code: 0 });
    expect(backEnd.complaints).toBe('');
  });
});

/** Which of the first blocks have other bytes than zeroes. */
async function blocksWithData(image: string): Promise<boolean[]> {
  await using file = await open(image);
  const found: boolean[] = [];
  for (let index = 0; index < 6; index++) {
    const block = Buffer.alloc(BLOCK_BYTES);
    await file.read(block, 0, BLOCK_BYTES, index * BLOCK_BYTES);
    found.push(block.some((byte) => byte !== 0));
  }
  return found;
}
