/**
 * User-mode Linux: a real kernel with a real virtio_blk, which is a program. Its root is the
 * machine's, read-only, so the guest has the machine's tools; the disk is /dev/vda.
 *
 * The guest's processes are processes of the machine, held by ptrace. When their kernel dies they
 * would go on as what they are then: programs on the machine, with our rights, and its disks. So
 * they live in a PID namespace, which ends with the kernel, and init makes sure of where it is.
 */
import { mkdir, writeFile } from 'node:fs/promises';

import { guestFolder } from '../../scripts/guests.mjs';
import { type Folder, Running } from '../cli/sluice.ts';

const GUEST = guestFolder('uml');
/** virtio-blk. */
const DEVICE_TYPE = 2;
/** What the kernel does not know of its command line it gives to init as variables. */
const INIT = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
inside() { grep -q 'User Mode Linux' /proc/cpuinfo; }
inside || { mount -t proc proc /proc && inside; } || exit 1
mount -t sysfs sys /sys; mount -t tmpfs tmpfs /run; mkdir /run/disk
${GUEST}/bin/busybox insmod ${GUEST}/modules/virtio_blk.ko
bash -e $job 2>&1
echo "job ended with $?"
inside && ${GUEST}/bin/busybox poweroff -f
`;

let jobs = 0;

/** Boots a guest with the disk at `socket`, which does `job`, a script, and halts. */
export async function bootUml(folder: Folder, socket: string, job: string): Promise<Running> {
  const [init, script] = [folder.file('init'), folder.file(`job-${jobs++}`)];
  await mkdir(folder.file('uml'), { recursive: true });
  await writeFile(init, INIT, { mode: 0o755 });
  await writeFile(script, job);
  const root = ['root=/dev/root', 'rootfstype=hostfs', 'rootflags=/', 'ro'];
  const console = ['con=null', 'con0=null,fd:1', 'quiet'];
  const disk = `virtio_uml.device=${socket}:${DEVICE_TYPE}`;
  const own = [`init=${init}`, `uml_dir=${folder.file('uml')}/`, `job=${script}`];
  const args = ['mem=256M', ...root, ...console, disk, ...own];
  const namespace = ['--fork', '--pid', '--kill-child=SIGKILL'];
  // Others than root make one in a namespace of users.
  if (process.getuid?.() !== 0) namespace.push('--user', '--map-root-user');
  const program = [...namespace, `${GUEST}/bin/linux.uml`, ...args];
  return new Running('unshare', program, { group: true });
}

/** The same until it halts; answers what it has shown. Rejects when the job has failed. */
export async function runUml(folder: Folder, socket: string, job: string): Promise<string> {
  await using guest = await bootUml(folder, socket, job);
  const { stdout, stderr } = await guest.outcome;
  if (stdout.includes('job ended with 0')) return stdout.replaceAll('\r', '');
  throw new Error(`the job failed:\n${stdout}${stderr}`);
}
