/**
 * Debian's cloud kernel in QEMU, without KVM: the disk is /dev/vda, and a back-end that has gone is
 * waited for.
 */
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { guestFolder, GUESTS } from '../../scripts/guests.mjs';
import { type Folder, Running } from '../cli/sluice.ts';
import { cpio, type CpioEntry } from '../v86/cpio.ts';

const GUEST = guestFolder('cloud');
const { modules } = GUESTS.cloud;
const COMMAND_LINE = 'console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on';
const RAM_MIB = 192;
const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -onlcr
for module in ${modules.join(' ')}; do insmod /modules/$module.ko; done
sh -e /job
echo "job ended with $?"
poweroff -f
`;

export interface CloudOptions {
  /** QEMU's arguments for it. */
  readonly disk: readonly string[];
  readonly processors: number;
  /** How the guest's memory is a file; default: so that others see it. */
  readonly memory?: 'shared' | 'private' | 'no file' | undefined;
  /** A script for busybox. */
  readonly job: string;
}

/** A disk by vhost-user-blk; without a number of queues QEMU asks for one for each processor. */
export function vhostUserDisk(socket: string, queues?: number): string[] {
  const channel = ['-chardev', `socket,id=disk,path=${socket},reconnect=1`];
  const count = queues === undefined ? '' : `,num-queues=${queues}`;
  return [...channel, '-device', `vhost-user-blk-pci,chardev=disk${count}`];
}

/** A disk by NBD, which the guest flushes. */
export function nbdDisk(socket: string): string[] {
  const server = `driver=nbd,node-name=disk,server.type=unix,server.path=${socket}`;
  return ['-blockdev', server, '-device', 'virtio-blk-pci,drive=disk'];
}

/** Boots a guest that does the job and halts. */
export async function bootCloud(
  folder: Folder,
  { disk, processors, job, memory = 'shared' }: CloudOptions,
): Promise<Running> {
  const initrd = folder.file('initrd');
  await writeFile(initrd, initramfs(job));
  const plain = ['-nodefaults', '-display', 'none', '-serial', 'stdio', '-no-reboot'];
  const cpus = ['-accel', 'tcg', '-smp', String(processors)];
  const share = memory === 'shared' ? 'on' : 'off';
  const backend = `memory-backend-memfd,id=mem,size=${RAM_MIB}M,share=${share}`;
  const file = ['-object', backend, '-machine', 'pc,memory-backend=mem'];
  const ram = ['-m', String(RAM_MIB), ...(memory === 'no file' ? ['-machine', 'pc'] : file)];
  const kernel = ['-kernel', join(GUEST, 'vmlinuz'), '-initrd', initrd, '-append', COMMAND_LINE];
  const args = [...plain, ...cpus, ...ram, ...kernel, ...disk];
  return new Running('qemu-system-x86_64', args);
}

function initramfs(job: string): Uint8Array {
  const folders = ['bin', 'modules', 'proc', 'sys', 'dev', 'disk'];
  const files = ['bin/busybox', ...modules.map((name) => `modules/${name}.ko`)];
  const entries: CpioEntry[] = [
    ...folders.map((path) => ({ path, kind: 'folder' as const })),
    ...files.map((path) => ({
      path,
      kind: 'file' as const,
      bytes: readFileSync(join(GUEST, path)),
    })),
    { path: 'init', kind: 'file', bytes: Buffer.from(INIT) },
    { path: 'job', kind: 'file', bytes: Buffer.from(job) },
  ];
  return cpio(entries);
}
