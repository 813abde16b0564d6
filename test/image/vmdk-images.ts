/** VMDK images by our own hand: what qemu-img cannot make. */
import { deflateSync } from 'node:zlib';

/** What an image is made of. */
export interface VmdkParts {
  /** The bytes of the disk, whole sectors. */
  readonly disk: Uint8Array;
  /** Default 8. */
  readonly grainSectors?: number;
  /** Default 512. */
  readonly tableEntries?: number;
  /** Grains that read as something else than the disk's bytes: `none` and `zero` as zeroes. */
  readonly kindOf?: (grain: number) => 'data' | 'none' | 'zero';
  readonly compressed?: boolean;
  /** The directory is named by a footer at the end. */
  readonly atEnd?: boolean;
  /** Lines of the descriptor instead of its own. */
  readonly descriptor?: string;
  readonly version?: number;
}

const SECTOR = 512;
const DESCRIPTOR_SECTORS = 20;
const NEWLINE_TEST = 1;
const ZEROED_GRAINS = 4;
const COMPRESSED = 0x10000;
const MARKERS = 0x20000;
const AT_END = 2n ** 64n - 1n;

/** Offsets of fields of the header, for tests that change them. */
export const VMDK = {
  version: 4,
  flags: 8,
  capacity: 12,
  grainSize: 20,
  descriptorOffset: 28,
  descriptorSize: 36,
  tableEntries: 44,
  directory: 56,
  overhead: 64,
  compression: 77,
} as const;

/** A hosted sparse extent: header, descriptor, then grains, tables, directory. */
export function vmdk(parts: VmdkParts): Uint8Array {
  const { disk, grainSectors = 8, tableEntries = 512, compressed = false, atEnd = false } = parts;
  const kindOf = parts.kindOf ?? (() => 'data');
  const grainBytes = grainSectors * SECTOR;
  const grains = Math.ceil(disk.length / grainBytes);
  const tables = Math.ceil(grains / tableEntries);
  const chunks: Uint8Array[] = [Buffer.alloc(SECTOR), descriptorOf(parts)];
  let at = 1 + DESCRIPTOR_SECTORS;
  const add = (bytes: Uint8Array): number => {
    const place = at;
    const padded = Buffer.alloc(Math.ceil(bytes.length / SECTOR) * SECTOR);
    padded.set(bytes);
    chunks.push(padded);
    at += padded.length / SECTOR;
    return place;
  };
  const directory = Buffer.alloc(tables * 4);
  for (let index = 0; index < tables; index++) {
    const table = Buffer.alloc(tableEntries * 4);
    for (let entry = 0; entry < tableEntries; entry++) {
      const grain = index * tableEntries + entry;
      if (grain >= grains) break;
      const kind = kindOf(grain);
      const bytes = disk.subarray(grain * grainBytes, (grain + 1) * grainBytes);
      const place = kind === 'data' ? add(grainOf(bytes, grain * grainSectors, parts)) : 0;
      table.writeUInt32LE(kind === 'zero' ? 1 : place, entry * 4);
    }
    if (table.some((byte) => byte !== 0)) directory.writeUInt32LE(add(table), index * 4);
  }
  const directoryAt = BigInt(add(directory));
  const header = (place: bigint): Uint8Array =>
    headerOf({ ...parts, compressed, grainSectors, tableEntries }, place);
  chunks[0] = header(atEnd ? AT_END : directoryAt);
  if (atEnd) chunks.push(markerOf(3), header(directoryAt), markerOf(0));
  return Buffer.concat(chunks);
}

function grainOf(bytes: Uint8Array, sector: number, { compressed, grainSectors = 8 }: VmdkParts) {
  if (compressed === true) return grainStream(deflateSync(bytes), sector);
  const grain = Buffer.alloc(grainSectors * SECTOR);
  grain.set(bytes);
  return grain;
}

/** A marker and a stream. */
export function grainStream(stream: Uint8Array, sector: number): Uint8Array {
  const marker = Buffer.alloc(12);
  marker.writeBigUInt64LE(BigInt(sector), 0);
  marker.writeUInt32LE(stream.length, 8);
  return Buffer.concat([marker, stream]);
}

function markerOf(type: number): Uint8Array {
  const bytes = Buffer.alloc(SECTOR);
  bytes.writeUInt32LE(type, 12);
  return bytes;
}

function headerOf(parts: VmdkParts, directory: bigint): Uint8Array {
  const { disk, grainSectors = 8, tableEntries = 512, compressed, version } = parts;
  const bytes = Buffer.alloc(SECTOR);
  bytes.write('KDMV', 0, 'latin1');
  bytes.writeUInt32LE(version ?? (compressed === true ? 3 : 1), VMDK.version);
  const packed = compressed === true ? COMPRESSED | MARKERS : 0;
  bytes.writeUInt32LE(NEWLINE_TEST | ZEROED_GRAINS | packed, VMDK.flags);
  bytes.writeBigUInt64LE(BigInt(disk.length / SECTOR), VMDK.capacity);
  bytes.writeBigUInt64LE(BigInt(grainSectors), VMDK.grainSize);
  bytes.writeBigUInt64LE(1n, VMDK.descriptorOffset);
  bytes.writeBigUInt64LE(BigInt(DESCRIPTOR_SECTORS), VMDK.descriptorSize);
  bytes.writeUInt32LE(tableEntries, VMDK.tableEntries);
  bytes.writeBigUInt64LE(directory, VMDK.directory);
  bytes.writeBigUInt64LE(BigInt(1 + DESCRIPTOR_SECTORS), VMDK.overhead);
  bytes.write('\n \r\n', 73, 'latin1');
  bytes.writeUInt16LE(compressed === true ? 1 : 0, VMDK.compression);
  return bytes;
}

/** The lines of a descriptor of one sparse extent. */
export function descriptorText(changes: { readonly [key: string]: string } = {}): string {
  const { extents = 'RW 64 SPARSE "disk.vmdk"', ...keys } = changes;
  const values = {
    version: '1',
    CID: '1234abcd',
    parentCID: 'ffffffff',
    createType: '"monolithicSparse"',
    ...keys,
  };
  const lines = Object.entries(values).map(([key, value]) => `${key}=${value}`);
  return ['# Disk DescriptorFile', ...lines, '# Extent description', extents, ''].join('\n');
}

function descriptorOf({ descriptor, compressed }: VmdkParts): Uint8Array {
  const bytes = Buffer.alloc(DESCRIPTOR_SECTORS * SECTOR);
  const createType = compressed === true ? '"streamOptimized"' : '"monolithicSparse"';
  bytes.write(descriptor ?? descriptorText({ createType }), 'latin1');
  return bytes;
}
