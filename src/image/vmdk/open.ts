/** VMDK images of one file: monolithicSparse and streamOptimized. */
import { MAGIC_BYTES } from '../format.ts';
import type { ImageFile } from '../image-file.ts';
import type { ReadOnlyDisk } from '../read-only-disk.ts';
import { otherKindOf, readDescriptor } from './descriptor.ts';
import { grainExtents } from './grains.ts';
import { isSparseExtent, readVmdkHeader } from './header.ts';

/** A file of the disk, in the keys of qemu-img. */
export interface VmdkExtentInfo {
  readonly compressed?: true;
  readonly 'virtual-size': number;
  readonly filename: string;
  readonly 'cluster-size': number;
  /** QEMU leaves it empty for images of one file. */
  readonly format: '';
}

/** What only VMDK has, in the keys of qemu-img. */
export interface VmdkInfo {
  readonly cid: number;
  readonly 'parent-cid': number;
  readonly 'create-type': 'monolithicSparse' | 'streamOptimized';
  readonly extents: readonly VmdkExtentInfo[];
}

/** Opens a VMDK image: its header and its descriptor. */
export async function openVmdk(file: ImageFile, path: string): Promise<ReadOnlyDisk> {
  const start = await file.read(0, Math.min(MAGIC_BYTES, file.sizeBytes));
  if (!isSparseExtent(start)) throw await otherKindOf(file, path);
  const header = await readVmdkHeader(file, path);
  const { sizeBytes, grainBytes, isCompressed } = header;
  const { cid, parentCid } = await readDescriptor(file, header.descriptor, path);
  return {
    sizeBytes,
    clusterBytes: grainBytes,
    ...(isCompressed ? { compression: 'grain' } : {}),
    vmdk: {
      cid,
      'parent-cid': parentCid,
      'create-type': isCompressed ? 'streamOptimized' : 'monolithicSparse',
      extents: [
        {
          ...(isCompressed ? { compressed: true } : {}),
          'virtual-size': sizeBytes,
          filename: path,
          'cluster-size': grainBytes,
          format: '',
        },
      ],
    },
    extents: (from, to) => grainExtents(file, header, path, from, to),
  };
}
