// The same over NBD: a Linux guest in QEMU is killed while it writes and syncs files, alone or
// together with its server, or the power is cut under the server.
//
// SLUICE_E2E_SEED=n repeats a run, as far as a race can be repeated; SLUICE_E2E_ROUNDS=n is the
// number of rounds for each case.

import { beforeAll, expect, it } from 'vitest';

import type { CacheMode } from '../../src/cache-mode.ts';
import { Folder, serve, succeed } from '../cli/sluice.ts';
import { systemPath } from '../e2e/image.ts';
import { Random } from '../engine/random.ts';
import { describeWithGuest } from '../support/guests.ts';
import { bootCloud, nbdDisk } from './cloud.ts';
import { acknowledged, lostFiles } from './files.ts';
import { powerObstacle, VolatileDisk } from './power.ts';

const SEED = Number(process.env['SLUICE_E2E_SEED'] ?? Date.now() % 1_000_000);
const ROUNDS = Number(process.env['SLUICE_E2E_ROUNDS'] ?? 1);
const ROOM_MS = 60_000 + 20_000 * ROUNDS;
const SIZE_BYTES = 64 << 20;
const WRITING_MS = 1500;

/** Writes files for ever, by busybox; each is acknowledged when it is synced. */
const jobOf = (round: number): string => `
mount -t ext4 /dev/vda /disk
n=0
while true; do
  n=$((n + 1)); name=${round}-$n
  { yes $name | head -n $((RANDOM % 2000 + 1)); echo end; } > /file
  dd if=/file of=/disk/$name bs=4k conv=fsync 2>/dev/null
  echo "ACK $name"
done
`;

async function fileSystem(folder: Folder): Promise<string> {
  const image = await folder.image('disk.img', SIZE_BYTES);
  await succeed('mkfs.ext4', ['-q', '-F', image], { env: systemPath() });
  return image;
}

const PROGRAMS = ['qemu-system-x86_64', 'qemu-img', 'mkfs.ext4', 'nbdkit', 'nbdfuse'] as const;

describeWithGuest('cloud', PROGRAMS, 'a guest over NBD', () => {
  let reason: string | undefined;
  beforeAll(async () => {
    reason = await powerObstacle();
  });

  it.for(['the guest', 'the guest and the server'])(
    'loses no synced file when %s is killed',
    { timeout: ROOM_MS },
    async (killed) => {
      await using folder = await Folder.make();
      const image = await fileSystem(folder);
      const random = new Random(SEED);
      const socket = folder.file('served.sock');
      const names: string[] = [];
      for (let round = 1; round <= ROUNDS; round++) {
        await using server = await serve(['-t', '-k', socket, '-f', 'raw', image]);
        const disk = nbdDisk(socket);
        await using guest = await bootCloud(folder, { disk, processors: 1, job: jobOf(round) });
        await guest.shows(/ACK/);
        await new Promise((resolve) => setTimeout(resolve, random.below(WRITING_MS)));
        const victims = killed === 'the guest' ? [guest] : random.shuffle([guest, server]);
        await Promise.all(victims.map((victim) => victim.stop('SIGKILL')));
        names.push(...acknowledged((await guest.outcome).stdout));
        if (killed === 'the guest') expect(await server.stop()).toMatchObject({ code: 0 });
        expect(await lostFiles(folder, { image, format: 'raw' }, names), `${SEED}`).toEqual([]);
      }
      expect(names.length).toBeGreaterThanOrEqual(ROUNDS);
    },
  );

  it.for<CacheMode>(['writeback', 'unsafe'])(
    'loses what the cache mode says in a power cut: %s',
    { timeout: ROOM_MS },
    async (mode, context) => {
      if (reason !== undefined) context.skip(reason);
      await using folder = await Folder.make();
      const image = await fileSystem(folder);
      let names: string[];
      {
        await using volatile = await VolatileDisk.mount(folder, image);
        const socket = folder.file('served.sock');
        await using _server = await serve(['-t', '-k', socket, '--cache', mode, volatile.path]);
        const disk = nbdDisk(socket);
        await using guest = await bootCloud(folder, { disk, processors: 1, job: jobOf(1) });
        await guest.shows(/ACK/);
        await new Promise((resolve) => setTimeout(resolve, WRITING_MS));
        // Before the cut: what comes now may be in the answer or not.
        names = acknowledged(guest.stdout);
        await volatile.cutPower();
      }
      const lost = await lostFiles(folder, { image, format: 'raw' }, names);
      process.stdout.write(`a power cut, NBD, ${mode}: ${lost.length} of ${names.length} lost\n`);
      expect(names.length).toBeGreaterThan(0);
      expect(lost).toEqual(mode === 'unsafe' ? names : []);
    },
  );
});
