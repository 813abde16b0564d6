/** Disks of images end at sectors, as with QEMU, whatever the length of a raw file is. */
import { SECTOR_SIZE } from '../abi/limits.ts';

/** Bytes rounded up to whole sectors. */
export function toSectors(bytes: number): number {
  return Math.ceil(bytes / SECTOR_SIZE) * SECTOR_SIZE;
}
