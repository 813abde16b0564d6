// The power is cut while a Linux guest writes: what must be stable is there, in every cache mode,
// and where nothing must be, it is not.

import { beforeAll, expect, it } from 'vitest';

import { CACHE_MODES, type CacheMode } from '../../src/cache-mode.ts';
import { Folder, succeed } from '../cli/sluice.ts';
import { systemPath } from '../e2e/image.ts';
import { describeWithGuest } from '../support/guests.ts';
import { BackEnd } from './back-end.ts';
import { acknowledged, type GuestCache, lostFiles, writerOf } from './files.ts';
import { powerObstacle, VolatileDisk } from './power.ts';
import { bootUml } from './uml.ts';

const ROUNDS = Number(process.env['SLUICE_E2E_ROUNDS'] ?? 1);
const ROOM_MS = 60_000 + 10_000 * ROUNDS;
const SIZE_BYTES = 64 << 20;
const WRITING_MS = 1000;

interface Case {
  readonly mode: CacheMode;
  readonly cache: GuestCache;
}

const CASES: readonly Case[] = [
  ...(Object.keys(CACHE_MODES) as CacheMode[]).map(
    (mode) => ({ mode, cache: 'as it is' }) as const,
  ),
  { mode: 'writeback', cache: 'write through' },
  { mode: 'none', cache: 'write through' },
];

describeWithGuest('uml', ['mkfs.ext4', 'qemu-img', 'nbdkit', 'nbdfuse'], 'a power cut', () => {
  let reason: string | undefined;
  beforeAll(async () => {
    reason = await powerObstacle();
  });

  it.for(CASES)(
    'with cache $mode, $cache in the guest',
    { timeout: ROOM_MS },
    async (on, context) => {
      if (reason !== undefined) context.skip(reason);
      await using folder = await Folder.make();
      const image = await folder.image('disk.img', SIZE_BYTES);
      for (let round = 1; round <= ROUNDS; round++) {
        await succeed('mkfs.ext4', ['-q', '-F', image], { env: systemPath() });
        const names = await cutPower(folder, image, on);
        const lost = await lostFiles(folder, { image, format: 'raw' }, names);
        process.stdout.write(`a power cut, ${on.mode}: ${lost.length} of ${names.length} lost\n`);
        expect(names.length).toBeGreaterThan(0);
        // With `unsafe` nothing was synced: the test can tell.
        expect(lost).toEqual(CACHE_MODES[on.mode].noFlush ? names : []);
      }
    },
  );
});

/** Answers the files that the guest has acknowledged. */
async function cutPower(folder: Folder, image: string, { mode, cache }: Case): Promise<string[]> {
  await using disk = await VolatileDisk.mount(folder, image);
  await using backEnd = await BackEnd.serve(folder, ['-f', 'raw', '--cache', mode, disk.path]);
  await using guest = await bootUml(folder, backEnd.socket, writerOf(1, cache));
  await guest.shows(/ACK/);
  await new Promise((resolve) => setTimeout(resolve, WRITING_MS));
  // Before the cut: what comes now may be in the answer or not.
  const names = acknowledged(guest.stdout);
  await disk.cutPower();
  return names;
}
