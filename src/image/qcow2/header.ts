/**
 * The header of a qcow2 image: everything that cluster 0 says, checked.
 *
 * H1 Every number is judged before it is used: a limit comes before the memory it would take.
 * H2 What is not understood is refused where the format says so (incompatible features), and
 *    kept otherwise.
 * H3 Whether the tables lie inside the file and apart is another question (header-layout.ts):
 *    a checker has to read headers that fail it.
 */
import {
  EXTENDED_L2_ENTRY_BYTES,
  HEADER_BYTES_V2,
  HEADER_SIZE,
  L2_ENTRY_BYTES,
  SUBCLUSTERS,
} from '../../abi/qcow2.ts';
import type { ImageFile } from '../image-file.ts';
import { checkExtensions, type UnknownExtension, unknownExtensions } from './header-extensions.ts';
import { featuresOf, type HeaderFeatures } from './header-features.ts';
import { filesOf, type HeaderFiles } from './header-files.ts';
import { l1EntriesFor } from './header-layout.ts';
import { clusterBitsOf, startOf } from './header-start.ts';
import { type HeaderTables, tablesOf } from './header-tables.ts';

/** A header that keeps the rules of the format. Offsets and sizes are bytes of the image file. */
export interface Qcow2Header extends HeaderFeatures, HeaderTables, HeaderFiles {
  readonly version: 2 | 3;
  /** Of the header's own structure; the extensions begin there. */
  readonly headerBytes: number;
  readonly clusterBits: number;
  readonly clusterBytes: number;
  /** Of the disk, in whole sectors: as in QEMU, a part of a sector at the end does not count. */
  readonly sizeBytes: number;
  /** Of one L2 table. */
  readonly l2Entries: number;
  /** A cluster, where entries are not extended. */
  readonly subclusterBytes: number;
  /** To be kept when the header is rewritten. */
  readonly unknownExtensions: readonly UnknownExtension[];
}

const SECTOR_BYTES = 512;

/**
 * Reads and checks the header; at most one cluster is read.
 * @throws SluiceError ERR_SLUICE_IMAGE, or ERR_SLUICE_UNSUPPORTED for versions and features that
 *   this release does not know
 */
export async function readHeader(file: ImageFile, path: string): Promise<Qcow2Header> {
  const { sizeBytes } = file;
  const start = await file.read(0, Math.min(sizeBytes, HEADER_BYTES_V2));
  const clusterBytes = 2 ** clusterBitsOf(start, path);
  return parseHeader(await file.read(0, Math.min(sizeBytes, clusterBytes)), path);
}

/** The header of an image that begins with these bytes; the first cluster must be among them. */
export function parseHeader(image: Uint8Array, path: string): Qcow2Header {
  const start = startOf(image, path);
  const { header, version, headerBytes, clusterBits, clusterBytes, extensions } = start;
  const features = featuresOf(start);
  checkExtensions(header, extensions);
  const { extendedL2 } = features;
  const size = header.byteCount(HEADER_SIZE, 'the size of the disk');
  const l2Entries = clusterBytes / (extendedL2 ? EXTENDED_L2_ENTRY_BYTES : L2_ENTRY_BYTES);
  return {
    version,
    headerBytes,
    clusterBits,
    clusterBytes,
    sizeBytes: size - (size % SECTOR_BYTES),
    l2Entries,
    subclusterBytes: extendedL2 ? clusterBytes / SUBCLUSTERS : clusterBytes,
    ...features,
    ...tablesOf(start, l1EntriesFor({ clusterBytes, l2Entries }, size)),
    ...filesOf(start, features),
    unknownExtensions: unknownExtensions(header, extensions),
  };
}
