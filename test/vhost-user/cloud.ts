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
  /** A script for busybox. */
  readonly job: string;
}

/** A disk by vhost-user-blk. */
export function vhostUserDisk(socket: string, queues: number): string[] {
  const channel = ['-chardev', `socket,id=disk,path=${socket},reconnect=1`];
  return [...channel, '-device', `vhost-user-blk-pci,chardev=disk,num-queues=${queues}`];
}

/** A disk by NBD, which the guest flushes. */
export function nbdDisk(socket: string): string[] {
  const server = `driver=nbd,node-name=disk,server.type=unix,server.path=${socket}`;
  return ['-blockdev', server, '-device', 'virtio-blk-pci,drive=disk'];
}

/** Boots a guest that does the job and halts. */
export async function bootCloud(
  folder: Folder,
  { disk, processors, job }: CloudOptions,
): Promise<Running> {
  const initrd = folder.file('initrd');
  await writeFile(initrd, initramfs(job));
  const plain = ['-nodefaults', '-display', 'none', '-serial', 'stdio', '-no-reboot'];
  const cpus = ['-accel', 'tcg', '-smp', String(processors)];
  const memory = `memory-backend-memfd,id=mem,size=${RAM_MIB}M,share=on`;
  const ram = ['-m', String(RAM_MIB), '-object', memory, '-machine', 'pc,memory-backend=mem'];
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
