/** Places in the image files of the base images (image/bad-inputs/bases.ts). */
import {
  HEADER_AUTOCLEAR_FEATURES,
  HEADER_INCOMPATIBLE_FEATURES,
  INCOMPATIBLE_CORRUPT_BIT,
} from '../../src/abi/qcow2.ts';
import type { Bytes } from './expected.ts';

/** Of the bases with data, the small one aside. */
export const CLUSTER_BYTES = 65536;

/** The last byte of the incompatible features, which has the bits 0 to 7. */
export const FEATURE_BYTE = HEADER_INCOMPATIBLE_FEATURES + 7;
export const CORRUPT_MASK = 1 << INCOMPATIBLE_CORRUPT_BIT;

export const DIRTY: Bytes = [FEATURE_BYTE, FEATURE_BYTE + 1];
export const AUTOCLEAR: Bytes = [HEADER_AUTOCLEAR_FEATURES, HEADER_AUTOCLEAR_FEATURES + 8];

/** The first 4 KiB and all of the cluster with the disk's first bytes. */
export const FIRST_DATA: Bytes = [0x50000, 0x51000];
export const FIRST_CLUSTER: Bytes = [0x50000, 0x60000];

export const REFCOUNT_BLOCK: Bytes = [0x20000, 0x30000];
export const L2_TABLE: Bytes = [0x40000, 0x50000];
/** What is behind the two clusters with data. */
export const BEHIND: Bytes = [0x70000, Number.MAX_SAFE_INTEGER];
