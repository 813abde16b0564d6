/** The feature bits of a header, and what they stand for. */
import {
  COMPATIBLE_LAZY_REFCOUNTS_BIT,
  COMPRESSION_DEFLATE,
  COMPRESSION_ZSTD,
  EXTENDED_L2_CLUSTER_BITS_MIN,
  HEADER_AUTOCLEAR_FEATURES,
  HEADER_CLUSTER_BITS,
  HEADER_COMPATIBLE_FEATURES,
  HEADER_COMPRESSION_TYPE,
  HEADER_INCOMPATIBLE_FEATURES,
  HEADER_REFCOUNT_ORDER,
  INCOMPATIBLE_COMPRESSION_BIT,
  INCOMPATIBLE_CORRUPT_BIT,
  INCOMPATIBLE_DIRTY_BIT,
  INCOMPATIBLE_EXTENDED_L2_BIT,
  REFCOUNT_ORDER_MAX,
} from '../../abi/qcow2.ts';
import { type Fields, hasBit } from './fields.ts';
import { type HeaderExtensions, incompatibleNames } from './header-extensions.ts';
import type { HeaderStart } from './header-start.ts';

/** The parts of Qcow2Header that the feature bits decide. */
export interface HeaderFeatures {
  readonly incompatible: bigint;
  readonly compatible: bigint;
  readonly autoclear: bigint;
  readonly refcountOrder: number;
  readonly refcountBits: number;
  readonly compression: 'deflate' | 'zstd';
  readonly extendedL2: boolean;
  /** The refcounts may be stale. */
  readonly dirty: boolean;
  /** Somebody found it damaged: no writes but repairs. Recorded only; the opener decides. */
  readonly corrupt: boolean;
  readonly lazyRefcounts: boolean;
}

/** Version 2 has no bits and 16-bit refcounts. */
export function featuresOf(start: HeaderStart): HeaderFeatures {
  const { header, version } = start;
  const isV3 = version === 3;
  const incompatible = isV3 ? header.u64(HEADER_INCOMPATIBLE_FEATURES) : 0n;
  refuseUnknownFeatures(header, incompatible, start.extensions);
  const refcountOrder = isV3 ? header.u32(HEADER_REFCOUNT_ORDER) : 4;
  if (refcountOrder > REFCOUNT_ORDER_MAX) {
    const rule = `they have at most 2^${REFCOUNT_ORDER_MAX}`;
    throw header.refusal(HEADER_REFCOUNT_ORDER, `refcounts have 2^${refcountOrder} bits; ${rule}`);
  }
  const compatible = isV3 ? header.u64(HEADER_COMPATIBLE_FEATURES) : 0n;
  return {
    incompatible,
    compatible,
    autoclear: isV3 ? header.u64(HEADER_AUTOCLEAR_FEATURES) : 0n,
    refcountOrder,
    refcountBits: 2 ** refcountOrder,
    compression: compressionOf(start, incompatible),
    extendedL2: isExtendedL2(start, incompatible),
    dirty: hasBit(incompatible, INCOMPATIBLE_DIRTY_BIT),
    corrupt: hasBit(incompatible, INCOMPATIBLE_CORRUPT_BIT),
    lazyRefcounts: hasBit(compatible, COMPATIBLE_LAZY_REFCOUNTS_BIT),
  };
}

/** The known incompatible features are the lowest bits. */
function refuseUnknownFeatures(
  header: Fields,
  incompatible: bigint,
  extensions: HeaderExtensions,
): void {
  const unknown = incompatible >> BigInt(INCOMPATIBLE_EXTENDED_L2_BIT + 1) !== 0n;
  if (!unknown) return;
  const names = incompatibleNames(header, extensions);
  const texts: string[] = [];
  for (let bit = INCOMPATIBLE_EXTENDED_L2_BIT + 1; bit < 64; bit++) {
    if (hasBit(incompatible, bit)) texts.push(`${names.get(bit) ?? 'unnamed'} (bit ${bit})`);
  }
  const found = `the image uses features that this release does not know: ${texts.join(', ')}`;
  throw header.refusal(HEADER_INCOMPATIBLE_FEATURES, found, 'ERR_SLUICE_UNSUPPORTED');
}

function compressionOf(start: HeaderStart, incompatible: bigint): 'deflate' | 'zstd' {
  const { header, headerBytes } = start;
  const hasType = headerBytes > HEADER_COMPRESSION_TYPE;
  const type = hasType ? header.u8(HEADER_COMPRESSION_TYPE) : COMPRESSION_DEFLATE;
  if (type > COMPRESSION_ZSTD) {
    const found = `compression type ${type}; this release knows deflate (0) and zstd (1)`;
    throw header.refusal(HEADER_COMPRESSION_TYPE, found, 'ERR_SLUICE_UNSUPPORTED');
  }
  const isMarked = hasBit(incompatible, INCOMPATIBLE_COMPRESSION_BIT);
  if (isMarked === (type !== COMPRESSION_DEFLATE)) return isMarked ? 'zstd' : 'deflate';
  const found = `compression type ${type}, while its feature bit is ${isMarked ? 'set' : 'clear'}`;
  throw header.refusal(HEADER_COMPRESSION_TYPE, found);
}

function isExtendedL2({ header, clusterBits }: HeaderStart, incompatible: bigint): boolean {
  if (!hasBit(incompatible, INCOMPATIBLE_EXTENDED_L2_BIT)) return false;
  if (clusterBits >= EXTENDED_L2_CLUSTER_BITS_MIN) return true;
  const rule = `extended L2 entries need 2^${EXTENDED_L2_CLUSTER_BITS_MIN}`;
  throw header.refusal(HEADER_CLUSTER_BITS, `clusters have 2^${clusterBits} bytes; ${rule}`);
}
