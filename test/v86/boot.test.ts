// A Debian guest on two disks, a raw one and a qcow2 overlay: one boot, one reboot, one state that
// goes on in another emulator. What the guest has made stable is read from the images by others.

import { execFileSync, type ExecFileSyncOptions } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { V86 } from 'v86';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Disk } from '../../src/disk.ts';
import { openDisk } from '../../src/node.ts';
import { attachVirtioBlk, type VirtioBlk } from '../../src/v86.ts';
import { hasDirect, scratchFolder } from '../backend/scratch.ts';
import { describeWithGuest } from '../support/guests.ts';
import { createEmulator, Shell } from './guest.ts';

const MIB = 1 << 20;
const RAW_BYTES = 64 * MIB;
const OVERLAY_BYTES = 48 * MIB;
/** FLUSH, CONFIG_WCE, DISCARD, WRITE_ZEROES, VERSION_1, RING_PACKED. */
const MUST_HAVE = [9n, 11n, 13n, 14n, 32n, 34n];
const BOOT_MS = 120_000;

/** A machine, and what its disks are. */
interface Machine {
  readonly emulator: V86;
  readonly shell: Shell;
  readonly disks: readonly Disk[];
  readonly blks: readonly VirtioBlk[];
}

const folder = scratchFolder();
const at = (name: string): string => join(folder, name);
const [RAW, BASE, OVERLAY] = [at('a.raw'), at('base.raw'), at('b.qcow2')];

/** What the base image holds: every sector another. */
const PATTERN = Buffer.alloc(OVERLAY_BYTES);
for (let word = 0; word < PATTERN.length; word += 4) PATTERN.writeUInt32LE(word * 31, word);

function host(program: string, args: string[], options: ExecFileSyncOptions = {}): string {
  const env = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` };
  return execFileSync(program, args, { stdio: 'pipe', ...options, env }).toString();
}

function md5(bytes: Uint8Array): string {
  return createHash('md5').update(bytes).digest('hex');
}

function makeImages(): void {
  writeFileSync(RAW, '');
  host('truncate', ['-s', String(RAW_BYTES), RAW]);
  writeFileSync(BASE, PATTERN);
  host('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', BASE, '-F', 'raw', OVERLAY]);
}

/** An emulator that does not run, with both disks. */
async function assemble(raw: string, overlay: string): Promise<Machine> {
  const emulator = createEmulator();
  const shell = new Shell(emulator);
  const cache = hasDirect(folder) ? 'none' : 'writeback';
  const options = { writable: true, cache } as const;
  const disks = [
    await openDisk(raw, { ...options, format: 'raw' }),
    await openDisk(overlay, { ...options, format: 'qcow2', backing: { folders: [folder] } }),
  ];
  const blks: VirtioBlk[] = [];
  for (const [index, disk] of disks.entries()) {
    blks.push(await attachVirtioBlk(emulator, disk, { serial: `sluice-${index}` }));
  }
  return { emulator, shell, disks, blks };
}

async function takeApart({ emulator, disks }: Machine): Promise<void> {
  await emulator.stop();
  for (const disk of disks) await disk.close();
  await emulator.destroy();
}

/** Clusters that were reserved when the copy was made may be lost, nothing else. */
function checkImage(image: string): void {
  const { corruptions = 0, 'check-errors': errors } = JSON.parse(
    host('sh', ['-c', 'qemu-img check --output=json "$1" || [ $? -eq 3 ]', 'sh', image]),
  ) as Record<string, number>;
  expect([corruptions, errors]).toEqual([0, 0]);
}

/** e2fsck finds nothing; what `debugfs` reads of a file. */
function fileOnHost(image: string, path: string): Buffer {
  host('e2fsck', ['-fn', image]);
  const out = at('out');
  host('debugfs', ['-R', `dump ${path} ${out}`, image]);
  return readFileSync(out);
}

describeWithGuest('i386', ['qemu-img', 'mkfs.ext4'], 'a Debian guest in v86', () => {
  let machine: Machine;

  beforeAll(async () => {
    makeImages();
    machine = await assemble(RAW, OVERLAY);
    await machine.emulator.run();
    await machine.shell.ready();
  }, BOOT_MS);

  afterAll(() => takeApart(machine));

  it('finds its disks, with their serials, sizes and features', async () => {
    const { shell, blks } = machine;
    const log = await shell.run('dmesg | grep "virtio_blk virtio"');
    expect(log).toContain(`[vda] ${RAW_BYTES / 512} 512-byte logical blocks`);
    expect(log).toContain(`[vdb] ${OVERLAY_BYTES / 512} 512-byte logical blocks`);
    const serials = await shell.run('cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial');
    expect(serials.split(/\s+/)).toEqual(['sluice-0', 'sluice-1']);
    expect(await shell.run('grep virtio /proc/interrupts')).toMatch(/virtio0|virtio1/);
    for (const { features } of blks) {
      expect(MUST_HAVE.filter((bit) => ((features.negotiated >> bit) & 1n) === 0n)).toEqual([]);
    }
  });

  it('reads the backing file through the overlay', async () => {
    const output = await machine.shell.run('md5sum </dev/vdb');
    expect(output).toContain(md5(PATTERN));
  });

  it('makes ext4 on both, writes with fsync, and runs a program from there', async () => {
    const { shell, disks } = machine;
    await shell.run('/sbin/mke2fs -q -F -t ext4 /dev/vda && mkdir /mnt/a /mnt/b');
    await shell.run('mount -t ext4 /dev/vda /mnt/a && cp /bin/busybox /mnt/a/busybox && sync');
    await shell.run('echo 3 >/proc/sys/vm/drop_caches');
    const own = await shell.run('/mnt/a/busybox md5sum /mnt/a/busybox /bin/busybox');
    const [a, b] = own.split('\n').map((line) => line.split(' ')[0]);
    expect(a).toBe(b);
    const before = disks[0]!.stats().syncs;
    await shell.run('dd if=/dev/urandom of=/mnt/a/data bs=64k count=16 conv=fsync 2>/dev/null');
    expect(disks[0]!.stats().syncs).toBeGreaterThan(before);
  });

  it('turns the write cache off and on', async () => {
    const { shell, disks, blks } = machine;
    const type = '/sys/block/vda/cache_type';
    expect(await shell.run(`cat ${type}`)).toBe('write back');
    await shell.run(`echo "write through" >${type}`);
    expect([await shell.run(`cat ${type}`), blks[0]!.wce]).toEqual(['write through', false]);
    await shell.run('echo stable >/mnt/a/stable && sync');
    expect(disks[0]!.wce).toBe(false);
    await shell.run(`echo "write back" >${type}`);
    expect(disks[0]!.wce).toBe(true);
  });

  it('discards, and zeroes over a backing file', async () => {
    const { shell, disks } = machine;
    const before = disks[1]!.stats().requests;
    await shell.run('/sbin/blkdiscard -z -o 1048576 -l 1048576 /dev/vdb');
    await shell.run('/sbin/blkdiscard -o 4194304 -l 4194304 /dev/vdb');
    await shell.run('echo 3 >/proc/sys/vm/drop_caches');
    const zeroes = await shell.run('dd if=/dev/vdb bs=1M skip=1 count=1 2>/dev/null | md5sum');
    expect(zeroes).toContain(md5(Buffer.alloc(MIB)));
    const kept = await shell.run('dd if=/dev/vdb bs=1M skip=2 count=1 2>/dev/null | md5sum');
    expect(kept).toContain(md5(PATTERN.subarray(2 * MIB, 3 * MIB)));
    const { writeZeroes, discard } = disks[1]!.stats().requests;
    expect(writeZeroes).toBeGreaterThan(before.writeZeroes);
    expect(discard).toBeGreaterThan(before.discard);
    await shell.run('/sbin/mke2fs -q -F -t ext4 /dev/vdb && mount -t ext4 /dev/vdb /mnt/b');
  });

  it('goes on in another emulator from a state that was taken amid its writes', async () => {
    const { emulator, shell, disks, blks } = machine;
    await shell.run(
      '{ for i in 1 2 3 4 5 6 7 8; do for d in a b; do' +
        ' dd if=/dev/urandom of=/mnt/$d/load$i bs=64k count=8 conv=fsync 2>/dev/null;' +
        ' (cd /mnt/$d && md5sum load$i >>sums && sync); done; done; } &',
    );
    for (let tries = 0; blks.every(({ queues }) => queues.inFlight() === 0); tries++) {
      if (tries > 100_000) throw new Error('the guest writes nothing');
      await new Promise(setImmediate);
    }
    await emulator.stop();
    const state = await emulator.save_state();
    for (const disk of disks) await disk.flush();
    copyFileSync(RAW, at('a2.raw'));
    copyFileSync(OVERLAY, at('b2.qcow2'));

    const second = await assemble(at('a2.raw'), at('b2.qcow2'));
    await second.emulator.restore_state(state);
    await second.emulator.run();
    await finishLoad(second.shell);
    await second.shell.run('umount /mnt/a /mnt/b');
    await takeApart(second);
    host('e2fsck', ['-fn', at('a2.raw')]);
    checkImage(at('b2.qcow2'));

    await emulator.run();
    await finishLoad(shell);
  });

  it('reboots: what was made stable is there, and the disks are found again', async () => {
    const { shell, blks, emulator } = machine;
    await shell.run('dd if=/dev/urandom of=/mnt/a/last bs=4k count=9 conv=fsync 2>/dev/null');
    const before = await shell.run('md5sum </mnt/a/last; md5sum </mnt/a/data');
    shell.send('dd if=/dev/urandom of=/mnt/a/junk bs=64k count=64 conv=fsync 2>/dev/null &');
    shell.send('reboot -f');
    await shell.ready();
    expect(blks.map(({ status }) => status)).toEqual([15, 15]);
    await shell.run('mkdir /mnt/a /mnt/b && mount -t ext4 /dev/vda /mnt/a');
    await shell.run('mount -t ext4 /dev/vdb /mnt/b');
    expect(await shell.run('md5sum </mnt/a/last; md5sum </mnt/a/data')).toBe(before);
    await finishLoad(shell);
    await shell.run('umount /mnt/b');
    expect(emulator.is_running()).toBe(true);
  });

  it('leaves images that others find clean, with the contents that the guest had', async () => {
    const { shell } = machine;
    const sums = (await shell.run('md5sum </mnt/a/data; md5sum </mnt/a/last')).split(/\s+-\s*/);
    await shell.run('umount /mnt/a');
    await takeApart(machine);
    expect(md5(fileOnHost(RAW, '/data'))).toBe(sums[0]);
    expect(md5(fileOnHost(RAW, '/last'))).toBe(sums[1]);
    host('qemu-img', ['check', '-q', OVERLAY]);
    host('qemu-img', ['convert', '-O', 'raw', OVERLAY, at('b.raw')]);
    const listed = fileOnHost(at('b.raw'), '/sums').toString().trim().split('\n');
    expect(listed).toHaveLength(8);
    for (const line of listed) {
      const [sum, name] = line.split(/\s+/);
      expect(md5(fileOnHost(at('b.raw'), `/${name}`))).toBe(sum);
    }
    expect(Buffer.compare(readFileSync(BASE), PATTERN)).toBe(0);
  });
});

/** Waits until the background writes are done, and reads them back. */
async function finishLoad(shell: Shell): Promise<void> {
  await shell.run('wait; sync; echo 3 >/proc/sys/vm/drop_caches');
  for (const mount of ['a', 'b']) {
    const sums = await shell.run(`cd /mnt/${mount} && md5sum -c sums; cd /`);
    expect(sums.split('\n').filter((line) => line.endsWith(': OK'))).toHaveLength(8);
  }
}
