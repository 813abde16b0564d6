/** The columns of the table of clients, in its order. */
import { NBDCOPY, NBDINFO, NBDSH } from './libnbd-columns.ts';
import { FIO, NBD_CLIENT, NBDKIT_PROXY } from './other-columns.ts';
import { QEMU_IMG, QEMU_IO } from './qemu-columns.ts';

export const CLIENTS = [
  NBDINFO,
  NBDCOPY,
  NBDSH,
  QEMU_IMG,
  QEMU_IO,
  NBDKIT_PROXY,
  FIO,
  NBD_CLIENT,
] as const;
