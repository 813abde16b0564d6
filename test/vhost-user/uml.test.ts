// A Linux guest on a vhost-user disk, in every cache mode: it makes a file system, verifies what it
// writes, and turns the write cache off and on. What it leaves is read by others.

import { expect, it, type TestContext } from 'vitest';

import { CACHE_MODES, type CacheMode } from '../../src/cache-mode.ts';
import type { DiskStats } from '../../src/stats.ts';
import { openDisk, serveVhostUser } from '../../src/node.ts';
import { Folder } from '../cli/sluice.ts';
import { obstacle } from '../e2e/image.ts';
import { describeWithGuest } from '../support/guests.ts';
import { checkDisk, type Format, FORMATS, noisyImage, type Stored } from './images.ts';
import { runUml } from './uml.ts';

const SIZE_BYTES = 48 << 20;
const MODES = Object.keys(CACHE_MODES) as CacheMode[];
/** Files that the guest writes and syncs, each with a cache that can be flushed. */
const SYNCED_FILES = 12;

const JOB = `
dmesg | grep vda
write() { dd if=/dev/urandom of=/run/disk/$1 bs=5000 count=10 conv=fsync status=none; }
cache() { echo "$1" > /sys/block/vda/cache_type; [ "$(cat /sys/block/vda/cache_type)" = "$1" ]; }
echo "cache: $(cat /sys/block/vda/cache_type)"
mkfs.ext4 -q -F -E nodiscard /dev/vda
mount /dev/vda /run/disk
cd /run/disk
fio --name=verified --size=4m --rw=randwrite --bsrange=4k-64k --ioengine=psync --fsync=8 \\
  --verify=crc32c --randseed=7 --output=/run/fio || { cat /run/fio; false; }
cache 'write back'
for n in $(seq ${SYNCED_FILES}); do write synced-$n; done
cache 'write through'
for n in 1 2 3; do write through-$n; done
cache 'write back'
write last
md5sum * .??* > /run/sums 2>/dev/null || true
cd /
umount /run/disk
mount /dev/vda /run/disk
(cd /run/disk; md5sum -c --quiet /run/sums; echo "$(wc -l < /run/sums) files are right")
rm /run/disk/verified*
fstrim -v /run/disk
umount /run/disk
e2fsck -fn /dev/vda
`;

describeWithGuest('uml', ['mkfs.ext4', 'fio', 'qemu-img'], 'user-mode Linux', () => {
  const cases = MODES.flatMap((mode) => FORMATS.map((format) => ({ mode, format })));

  it.for(cases)('keeps a file system on $format, cache $mode', async (on, context) => {
    const { shown, stats } = await useDisk(on.mode, on.format, context);
    const { wce, noFlush } = CACHE_MODES[on.mode];
    expect(shown).toContain(`cache: write ${wce ? 'back' : 'through'}`);
    expect(shown).toContain('[vda] 98304 512-byte logical blocks');
    expect(stats.requests.refused).toBe(0);
    expect(stats.requests.discard).toBeGreaterThan(0);
    expect(stats.flushes.received).toBeGreaterThan(SYNCED_FILES);
    if (noFlush) expect(stats.syncs).toBe(0);
    else if (wce) expect(stats.syncs).toBeGreaterThan(SYNCED_FILES);
  });
});

/** What the guest has shown, and what the disk has done for it. */
async function useDisk(
  mode: CacheMode,
  format: Format,
  context: TestContext,
): Promise<{ readonly shown: string; readonly stats: DiskStats }> {
  await using folder = await Folder.make();
  const reason = obstacle(mode, folder);
  if (reason !== undefined) context.skip(reason);
  const image = await noisyImage(folder, format, SIZE_BYTES);
  const use = await serveWhile(folder, { image, format, mode });
  await checkDisk(folder, { image, format });
  return use;
}

async function serveWhile(
  folder: Folder,
  { image, format, mode }: Stored & { readonly mode: CacheMode },
) {
  const backing = format === 'qcow2' ? { folders: [folder.path] } : undefined;
  await using disk = await openDisk(image, { format, cache: mode, writable: true, backing });
  const socket = folder.file('disk.sock');
  await using server = await serveVhostUser(disk, { socket });
  const faults: Error[] = [];
  server.on('fault', (error) => faults.push(error));
  const shown = await runUml(folder, socket, JOB);
  expect(faults).toEqual([]);
  return { shown, stats: disk.stats() };
}
