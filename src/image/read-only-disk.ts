/**
 * The disk in an image of a format that is read and never written: a source of copies, which says
 * where its bytes lie as a qcow2 image does.
 */
import type { ReadOnlyFormat } from './format.ts';
import type { ImageFile } from './image-file.ts';
import type { TableExtent } from './qcow2/extents.ts';
import { openVhd } from './vhd/open.ts';
import { openVmdk, type VmdkInfo } from './vmdk/open.ts';

/** A disk, whose image was checked as far as it can be without its tables. */
export interface ReadOnlyDisk {
  readonly sizeBytes: number;
  /** What gets a place at once: a block, a grain. Absent: the disk lies in the file as it is. */
  readonly clusterBytes?: number;
  /** How its compressed clusters are stored. */
  readonly compression?: 'grain';
  /** What only VMDK has. */
  readonly vmdk?: VmdkInfo;
  /** What the tables say, in order; rejects with ERR_SLUICE_CORRUPT for what cannot be. */
  extents(from: number, to: number): AsyncGenerator<TableExtent, void, void>;
}

/**
 * Opens the disk in an image.
 * @throws SluiceError ERR_SLUICE_IMAGE, or ERR_SLUICE_UNSUPPORTED for kinds that are not read
 */
export function openReadOnlyDisk(
  format: ReadOnlyFormat,
  file: ImageFile,
  path: string,
): Promise<ReadOnlyDisk> {
  return format === 'vpc' ? openVhd(file, path) : openVmdk(file, path);
}
