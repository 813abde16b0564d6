/**
 * A plain reader of qcow2 images in memory: slow, obvious, from the format's description alone. It
 * shares nothing with the engine and the checker, so both can be judged by it.
 *
 * What is not as it must be throws. Encrypted images and zstd are not read.
 */

import { constants, inflateRawSync } from 'node:zlib';

const ZERO_FLAG = 1n;
const COMPRESSED_FLAG = 1n << 62n;
const COPIED_FLAG = 1n << 63n;
const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;
const DATA_FILE_FEATURE = 4n;
const EXTENDED_FEATURE = 16n;
const SUBCLUSTERS = 32;
const NOTHING = new Uint8Array(0);

/**
 * These bytes of the disk, as a guest reads them.
 * @param backing the disk that the image is based on; past its end it reads as zeroes
 * @param data the external data file
 */
export function readGuest(
  image: Uint8Array,
  backing: Uint8Array = NOTHING,
  offset = 0,
  length = guestSize(image),
  data: Uint8Array = NOTHING,
): Uint8Array {
  const disk = new Disk(image, backing, data);
  const result = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const at = offset + done;
    const piece = disk.clusterFrom(at).subarray(0, length - done);
    result.set(piece, done);
    done += piece.length;
  }
  return result;
}

/** The size of the disk in bytes. */
export function guestSize(image: Uint8Array): number {
  return Number(viewOf(image).getBigUint64(24));
}

class Disk {
  readonly #image: Uint8Array;
  readonly #view: DataView;
  readonly #backing: Uint8Array;
  readonly #data: Uint8Array;
  readonly #version: number;
  readonly #clusterBits: number;
  readonly #clusterBytes: number;
  readonly #isExtended: boolean;
  readonly #hasDataFile: boolean;
  readonly #isZstd: boolean;

  constructor(image: Uint8Array, backing: Uint8Array, data: Uint8Array) {
    this.#image = image;
    this.#view = viewOf(image);
    this.#backing = backing;
    this.#data = data;
    if (this.#view.getUint32(0) !== 0x514649fb) throw new Error('not a qcow2 image');
    if (this.#view.getUint32(32) !== 0) throw new Error('the image is encrypted');
    this.#version = this.#view.getUint32(4);
    this.#clusterBits = this.#view.getUint32(20);
    this.#clusterBytes = 2 ** this.#clusterBits;
    const features = this.#version === 2 ? 0n : this.#view.getBigUint64(72);
    this.#isExtended = (features & EXTENDED_FEATURE) !== 0n;
    this.#hasDataFile = (features & DATA_FILE_FEATURE) !== 0n;
    const headerBytes = this.#version === 2 ? 72 : this.#view.getUint32(100);
    this.#isZstd = headerBytes > 104 && image[104] === 1;
  }

  /** The rest of the cluster that this byte is in. */
  clusterFrom(guestOffset: number): Uint8Array {
    const start = guestOffset - (guestOffset % this.#clusterBytes);
    return this.#cluster(start).subarray(guestOffset - start);
  }

  #cluster(start: number): Uint8Array {
    const entryBytes = this.#isExtended ? 16 : 8;
    const index = start / this.#clusterBytes;
    const perTable = this.#clusterBytes / entryBytes;
    const table = this.#l2Table(Math.floor(index / perTable));
    if (table === 0) return this.#fromBacking(start, this.#clusterBytes);
    const at = table + (index % perTable) * entryBytes;
    const entry = this.#view.getBigUint64(at);
    if ((entry & COMPRESSED_FLAG) !== 0n) return this.#inflate(entry);
    if (this.#isExtended) return this.#subclusters(start, entry, at + 8);
    if ((entry & ZERO_FLAG) !== 0n) return this.#zeroes();
    const host = Number(entry & OFFSET_MASK);
    const isThere = host !== 0 || (this.#hasDataFile && (entry & COPIED_FLAG) !== 0n);
    if (!isThere) return this.#fromBacking(start, this.#clusterBytes);
    return this.#hosted(start, host, this.#clusterBytes);
  }

  /** Where the L2 table lies; 0: nowhere. */
  #l2Table(l1Index: number): number {
    if (l1Index >= this.#view.getUint32(36)) return 0;
    const l1 = Number(this.#view.getBigUint64(40));
    const entry = this.#view.getBigUint64(l1 + l1Index * 8);
    if ((entry & ~OFFSET_MASK & ~COPIED_FLAG) !== 0n) throw new Error('an L1 entry is damaged');
    const table = Number(entry & OFFSET_MASK);
    if (table % this.#clusterBytes !== 0) throw new Error('an L2 table is not aligned');
    return table;
  }

  #zeroes(): Uint8Array {
    if (this.#version === 2) throw new Error('a zero flag in version 2');
    return new Uint8Array(this.#clusterBytes);
  }

  #fromBacking(start: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    bytes.set(this.#backing.subarray(start, start + length));
    return bytes;
  }

  #hosted(guestOffset: number, host: number, length: number): Uint8Array {
    const cluster = host - (guestOffset % this.#clusterBytes);
    if (cluster % this.#clusterBytes !== 0) throw new Error(`cluster ${cluster} is not aligned`);
    if (!this.#hasDataFile) return this.#bytes(host, length);
    if (host !== guestOffset) throw new Error(`${host} in the data file is not ${guestOffset}`);
    const bytes = new Uint8Array(length);
    bytes.set(this.#data.subarray(host, host + length));
    return bytes;
  }

  #bytes(offset: number, length: number): Uint8Array {
    if (offset + length <= this.#image.length) return this.#image.subarray(offset, offset + length);
    throw new Error(`${length} bytes at ${offset} are past the end of the file`);
  }

  #subclusters(start: number, entry: bigint, bitmapAt: number): Uint8Array {
    const host = Number(entry & OFFSET_MASK);
    const isThere = host !== 0 || (this.#hasDataFile && (entry & COPIED_FLAG) !== 0n);
    const zeroes = this.#view.getUint32(bitmapAt);
    const allocated = this.#view.getUint32(bitmapAt + 4);
    if ((zeroes & allocated) !== 0) throw new Error('a subcluster is allocated and zero');
    if (!isThere && allocated !== 0) throw new Error('a subcluster is allocated nowhere');
    const cluster = new Uint8Array(this.#clusterBytes);
    const length = this.#clusterBytes / SUBCLUSTERS;
    for (let index = 0; index < SUBCLUSTERS; index++) {
      const at = index * length;
      const bit = 1 << index;
      if ((zeroes & bit) !== 0) continue;
      const isAllocated = (allocated & bit) !== 0;
      const bytes = isAllocated
        ? this.#hosted(start + at, host + at, length)
        : this.#fromBacking(start + at, length);
      cluster.set(bytes, at);
    }
    return cluster;
  }

  #inflate(entry: bigint): Uint8Array {
    if (this.#isZstd) throw new Error('zstd is not read');
    const offsetBits = BigInt(62 - (this.#clusterBits - 8));
    const offset = Number(entry & ((1n << offsetBits) - 1n));
    const sectors = Number((entry & (COMPRESSED_FLAG - 1n)) >> offsetBits) + 1;
    const length = sectors * 512 - (offset % 512);
    const packed = this.#image.subarray(offset, offset + length);
    const plain = inflateRawSync(packed, { finishFlush: constants.Z_SYNC_FLUSH });
    if (plain.length < this.#clusterBytes) throw new Error('a compressed cluster is too short');
    return plain.subarray(0, this.#clusterBytes);
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
