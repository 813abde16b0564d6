// A Linux guest in QEMU whose back-end is killed again and again: the next one finishes what was in
// flight, and finds the write cache as the guest has left it.

import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';

import { Folder } from '../cli/sluice.ts';
import { Random } from '../engine/random.ts';
import { describeWithGuest } from '../support/guests.ts';
import { BackEnd } from './back-end.ts';
import { bootCloud, vhostUserDisk } from './cloud.ts';
import { checkDisk, ext4Image, servingOf } from './images.ts';

const SEED = Number(process.env['SLUICE_E2E_SEED'] ?? Date.now() % 1_000_000);
/** How often a back-end is killed. */
const KILLS = Number(process.env['SLUICE_E2E_ROUNDS'] ?? 3);
const SIZE_BYTES = 64 << 20;
const FILES_FOR_A_KILL = 12;

/** Files with their sums, which are looked at in the end. */
const jobOf = (cache: string): string => `
dmesg | grep vda
mount -t ext4 /dev/vda /disk
echo "${cache}" > /sys/block/vda/cache_type
n=0
while [ $n -lt ${(KILLS + 1) * FILES_FOR_A_KILL} ]; do
  n=$((n + 1))
  dd if=/dev/urandom of=/data bs=9000 count=3 2>/dev/null
  dd if=/data of=/disk/$n.bin conv=fsync 2>/dev/null
  md5sum < /data > /disk/$n.sum
  echo "ACK $n"
done
echo "cache: $(cat /sys/block/vda/cache_type)"
umount /disk
mount -t ext4 /dev/vda /disk
for file in /disk/*.bin; do [ "$(md5sum < $file)" = "$(cat \${file%.bin}.sum)" ]; done
echo "$(ls /disk/*.bin | wc -l) files are right"
umount /disk
dmesg | grep -iE 'error|timeout|hung' || echo 'no errors'
`;

describeWithGuest(
  'cloud',
  ['qemu-system-x86_64', 'mkfs.ext4', 'qemu-img'],
  'a killed back-end',
  () => {
    it.for([
      ['SIGKILL', 'write back', 'raw', 1],
      ['SIGKILL', 'write through', 'qcow2', 2],
      ['SIGTERM', 'write back', 'qcow2', 2],
    ] as const)('is replaced: %s, %s, %s, queues %i', async ([signal, cache, format, queues]) => {
      process.stdout.write(`a killed back-end: SLUICE_E2E_SEED=${SEED}\n`);
      const random = new Random(SEED);
      await using folder = await Folder.make();
      const image = await ext4Image(folder, format, SIZE_BYTES);
      const trace = (kill: number): string => folder.file(`trace-${kill}`);
      const serve = (kill: number): Promise<BackEnd> => {
        const options = ['--num-queues', String(queues), '--trace', trace(kill)];
        return BackEnd.serve(folder, [...options, ...servingOf(folder, format, image)]);
      };
      let backEnd = await serve(0);
      await using guest = await bootCloud(folder, {
        disk: vhostUserDisk(backEnd.socket, queues),
        processors: queues,
        job: jobOf(cache),
      });
      for (let kill = 1; kill <= KILLS; kill++) {
        const files = (kill - 1) * FILES_FOR_A_KILL + 1 + random.below(FILES_FOR_A_KILL);
        await guest.shows(new RegExp(`ACK ${files}\n`));
        await new Promise((resolve) => setTimeout(resolve, random.below(60)));
        await backEnd.stop(signal);
        backEnd = await serve(kill);
      }
      await using last = backEnd;
      const { stdout } = await guest.outcome;
      expect(stdout).toContain(`${(KILLS + 1) * FILES_FOR_A_KILL} files are right`);
      expect(stdout).toContain(`cache: ${cache}`);
      expect(stdout).toContain('no errors');
      expect(await last.stop()).toMatchObject({ code: 0 });
      expect(last.complaints).toBe('');
      expect(await cacheAtFirst(trace(KILLS))).toBe(cache);
      await checkDisk(folder, { image, format }, signal === 'SIGKILL');
    });
  },
);

/** The write cache with which a back-end has begun. */
async function cacheAtFirst(trace: string): Promise<string> {
  const lines = (await readFile(trace, 'utf8')).trimEnd().split('\n');
  const events = lines.map((line) => JSON.parse(line) as { op?: string; on?: boolean });
  const set = events.find(({ op }) => op === 'setWce');
  return set?.on === false ? 'write through' : 'write back';
}
