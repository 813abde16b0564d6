/** VHD images by our own hand: what qemu-img cannot make. */

/** What an image is made of. Everything can be wrong. */
export interface VhdParts {
  /** The bytes of the disk. */
  readonly disk: Uint8Array;
  readonly blockBytes?: number;
  /** Sectors whose bit is set; others are noise in the file. Default: all but those of zeroes. */
  readonly isWritten?: (sector: number) => boolean;
  /** Blocks that have a place; default: those with a written sector. */
  readonly hasPlace?: (block: number) => boolean;
  readonly footer?: FooterParts;
  /** Default true. */
  readonly hasEndFooter?: boolean;
  /** All bits of the bitmaps are set, as QEMU sets them. */
  readonly hasFullBitmaps?: boolean;
}

/** Fields of a footer. */
export interface FooterParts {
  readonly creator?: string;
  readonly type?: number;
  readonly currentBytes?: number;
  readonly geometry?: readonly [cylinders: number, heads: number, sectors: number];
}

export const SECTOR = 512;
const HEADER_AT = 512;
export const TABLE_AT = 1536;
const UNUSED = 0xffffffff;

/** A dynamic image. */
export function dynamicVhd(parts: VhdParts): Uint8Array {
  const { disk, blockBytes = 4096, hasEndFooter = true } = parts;
  const isWritten =
    parts.isWritten ?? ((sector) => sectorOf(disk, sector).some((byte) => byte > 0));
  const blocks = Math.ceil(disk.length / blockBytes);
  const perBlock = blockBytes / SECTOR;
  const bitmapBytes = Math.ceil(perBlock / 8 / SECTOR) * SECTOR;
  const footer = footerOf({ type: 3, currentBytes: disk.length, ...parts.footer });
  const tableBytes = Math.ceil((blocks * 4) / SECTOR) * SECTOR;
  const table = new Uint8Array(tableBytes).fill(0xff);
  const chunks = [footer, headerOf(blocks, blockBytes), table];
  let at = TABLE_AT + tableBytes;
  for (let block = 0; block < blocks; block++) {
    const sectors = Array.from({ length: perBlock }, (_, index) => block * perBlock + index);
    const written = sectors.filter((sector) => sector * SECTOR < disk.length && isWritten(sector));
    const entry = new DataView(table.buffer);
    if (!(parts.hasPlace?.(block) ?? written.length > 0)) {
      entry.setUint32(block * 4, UNUSED);
      continue;
    }
    entry.setUint32(block * 4, at / SECTOR);
    const bytes = new Uint8Array(bitmapBytes + blockBytes).fill(0x5a, bitmapBytes);
    if (parts.hasFullBitmaps === true) bytes.fill(0xff, 0, bitmapBytes);
    for (const sector of written) {
      const index = sector - block * perBlock;
      bytes[index >> 3]! |= 0x80 >> (index & 7);
      bytes.set(sectorOf(disk, sector), bitmapBytes + index * SECTOR);
    }
    chunks.push(bytes);
    at += bytes.length;
  }
  return Buffer.concat(hasEndFooter ? [...chunks, footer] : chunks);
}

/** A fixed image. */
export function fixedVhd(disk: Uint8Array, footer: FooterParts = {}): Uint8Array {
  return Buffer.concat([disk, footerOf({ type: 2, currentBytes: disk.length, ...footer })]);
}

function sectorOf(disk: Uint8Array, sector: number): Uint8Array {
  return disk.subarray(sector * SECTOR, (sector + 1) * SECTOR);
}

export function footerOf(parts: FooterParts): Uint8Array {
  const { creator = 'win ', type = 3, currentBytes = 0, geometry = [1, 1, 1] } = parts;
  const bytes = Buffer.alloc(SECTOR);
  bytes.write('conectix', 0, 'latin1');
  bytes.writeUInt32BE(2, 8);
  bytes.writeUInt32BE(0x10000, 12);
  bytes.writeBigUInt64BE(type === 2 ? 2n ** 64n - 1n : BigInt(HEADER_AT), 16);
  bytes.write(creator, 28, 'latin1');
  bytes.writeBigUInt64BE(BigInt(currentBytes), 40);
  bytes.writeBigUInt64BE(BigInt(currentBytes), 48);
  bytes.writeUInt16BE(geometry[0], 56);
  bytes.writeUInt8(geometry[1], 58);
  bytes.writeUInt8(geometry[2], 59);
  bytes.writeUInt32BE(type, 60);
  return withChecksum(bytes, 64);
}

function headerOf(entries: number, blockBytes: number): Uint8Array {
  const bytes = Buffer.alloc(1024);
  bytes.write('cxsparse', 0, 'latin1');
  bytes.writeBigUInt64BE(2n ** 64n - 1n, 8);
  bytes.writeBigUInt64BE(BigInt(TABLE_AT), 16);
  bytes.writeUInt32BE(0x10000, 24);
  bytes.writeUInt32BE(entries, 28);
  bytes.writeUInt32BE(blockBytes, 32);
  return withChecksum(bytes, 36);
}

/** The structure with its checksum, which lies at `offset`. */
export function withChecksum(bytes: Uint8Array, offset: number): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  view.setUint32(offset, 0);
  view.setUint32(offset, ~bytes.reduce((sum, byte) => sum + byte, 0) >>> 0);
  return bytes;
}

/** The image with a change in the dynamic header or the footer copy, whose checksums are right. */
export function changedVhd(image: Uint8Array, change: (bytes: Buffer) => void): Uint8Array {
  const bytes = Buffer.from(image);
  change(bytes);
  withChecksum(bytes.subarray(0, SECTOR), 64);
  withChecksum(bytes.subarray(HEADER_AT, HEADER_AT + 1024), 36);
  return bytes;
}
