/** The first fields of the header, which say how to read all others, and its extensions. */
import {
  CLUSTER_BITS_MAX,
  CLUSTER_BITS_MIN,
  HEADER_BACKING_FILE_OFFSET,
  HEADER_BYTES_V2,
  HEADER_BYTES_V3,
  HEADER_CLUSTER_BITS,
  HEADER_LENGTH,
  HEADER_MAGIC,
  HEADER_VERSION,
  QCOW2_MAGIC,
} from '../../abi/qcow2.ts';
import { Fields, hex } from './fields.ts';
import { type HeaderExtensions, walkExtensions } from './header-extensions.ts';

/** The first cluster, opened up. */
export interface HeaderStart {
  /** Of the whole cluster. */
  readonly header: Fields;
  readonly version: 2 | 3;
  /** Of the header's own structure; the extensions begin there. */
  readonly headerBytes: number;
  readonly clusterBits: number;
  readonly clusterBytes: number;
  /** As far as they could be walked: see checkExtensions(). */
  readonly extensions: HeaderExtensions;
}

/** Opens up the first cluster of an image that begins with these bytes. */
export function startOf(image: Uint8Array, path: string): HeaderStart {
  const clusterBits = clusterBitsOf(image, path);
  const clusterBytes = 2 ** clusterBits;
  const header = fieldsOf(image.subarray(0, clusterBytes), path);
  const version = header.u32(HEADER_VERSION) === 2 ? 2 : 3;
  const headerBytes = headerBytesOf(header, version, clusterBytes);
  const extensions = walkExtensions(header, headerBytes, extensionsEnd(header, headerBytes));
  return { header, version, headerBytes, clusterBits, clusterBytes, extensions };
}

/** Checks what comes before everything else: the magic, the version and the cluster size. */
export function clusterBitsOf(bytes: Uint8Array, path: string): number {
  const header = fieldsOf(bytes, path);
  if (bytes.length < 4 || header.u32(HEADER_MAGIC) !== QCOW2_MAGIC) {
    throw header.refusal(HEADER_MAGIC, 'this is not a qcow2 image; name the format that it has');
  }
  if (bytes.length < HEADER_BYTES_V2) {
    throw header.refusal(HEADER_MAGIC, `the file has ${bytes.length} bytes and ends inside it`);
  }
  const version = header.u32(HEADER_VERSION);
  if (version !== 2 && version !== 3) {
    const found = `version ${version}; this release reads versions 2 and 3`;
    throw header.refusal(HEADER_VERSION, found, 'ERR_SLUICE_UNSUPPORTED');
  }
  const clusterBits = header.u32(HEADER_CLUSTER_BITS);
  if (clusterBits < CLUSTER_BITS_MIN || clusterBits > CLUSTER_BITS_MAX) {
    const rule = `it must be 2^${CLUSTER_BITS_MIN} to 2^${CLUSTER_BITS_MAX}`;
    throw header.refusal(HEADER_CLUSTER_BITS, `the cluster size is 2^${clusterBits}; ${rule}`);
  }
  return clusterBits;
}

function fieldsOf(bytes: Uint8Array, path: string): Fields {
  return new Fields(bytes, { path, what: 'the header', offset: 0 });
}

function headerBytesOf(header: Fields, version: 2 | 3, clusterBytes: number): number {
  if (header.bytes.length < clusterBytes) {
    const found = `the file has ${header.bytes.length} bytes`;
    throw header.refusal(0, `${found} and ends inside its first cluster of ${clusterBytes}`);
  }
  if (version === 2) return HEADER_BYTES_V2;
  const headerBytes = header.u32(HEADER_LENGTH);
  if (headerBytes >= HEADER_BYTES_V3 && headerBytes <= clusterBytes && headerBytes % 8 === 0) {
    return headerBytes;
  }
  const rule = `it must be a multiple of 8, ${HEADER_BYTES_V3} to the cluster size ${clusterBytes}`;
  throw header.refusal(HEADER_LENGTH, `its length is ${headerBytes}; ${rule}`);
}

/** The extensions end where the backing name begins, or with the cluster. */
function extensionsEnd(header: Fields, headerBytes: number): number {
  const clusterBytes = header.bytes.length;
  const offset = header.u64(HEADER_BACKING_FILE_OFFSET);
  if (offset === 0n) return clusterBytes;
  if (offset >= BigInt(headerBytes) && offset <= BigInt(clusterBytes)) return Number(offset);
  const rule = `it must lie between the header's end and the cluster's, ${headerBytes} to`;
  const found = `the backing file's name is at ${hex(offset)}; ${rule} ${clusterBytes}`;
  throw header.refusal(HEADER_BACKING_FILE_OFFSET, found);
}
