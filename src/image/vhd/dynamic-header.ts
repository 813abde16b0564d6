/** The header of a dynamic VHD image (specification 1.0, Dynamic Disk Header Format). */
import type { EntryTablePlace, FileRange } from '../entry-table.ts';
import type { ImageFile } from '../image-file.ts';
import { Fields } from '../qcow2/fields.ts';
import { verifyChecksum } from './checksum.ts';

const HEADER_BYTES = 1024;
const HEADER_COOKIE = 'cxsparse';
const TABLE_OFFSET = 16;
const MAX_TABLE_ENTRIES = 28;
const BLOCK_SIZE = 32;
const CHECKSUM = 36;

const FOOTER_COPY: FileRange = { offset: 0, length: 512 };
const SECTOR_BYTES = 512;
const ENTRY_BYTES = 4;
/** The entry of a block that was never written. */
const UNUSED_ENTRY = 0xffffffff;

/** Where the blocks of a disk lie. */
export interface DynamicHeader {
  readonly blockBytes: number;
  /** The entries of the blocks that the disk has. */
  readonly table: EntryTablePlace;
  /** Where no block can be. */
  readonly metadata: readonly FileRange[];
}

/** Reads and checks the header of a disk of `sizeBytes`; no more than itself is read. */
export async function dynamicHeaderOf(
  file: ImageFile,
  path: string,
  { offset, sizeBytes }: { readonly offset: number; readonly sizeBytes: number },
): Promise<DynamicHeader> {
  const bytes = await file.read(offset, HEADER_BYTES);
  const header = new Fields(bytes, { path, what: 'the dynamic header', offset });
  if (String.fromCharCode(...bytes.subarray(0, HEADER_COOKIE.length)) !== HEADER_COOKIE) {
    throw header.refusal(0, 'it does not begin with "cxsparse"; the image is damaged');
  }
  verifyChecksum(header, CHECKSUM);
  const blockBytes = header.u32(BLOCK_SIZE);
  if (blockBytes < SECTOR_BYTES || !Number.isInteger(Math.log2(blockBytes))) {
    const rule = 'it must be a power of two, 512 or more';
    throw header.refusal(BLOCK_SIZE, `the block size is ${blockBytes}; ${rule}`);
  }
  const found = header.u32(MAX_TABLE_ENTRIES);
  const entries = Math.ceil(sizeBytes / blockBytes);
  if (found < entries) {
    const needs = `a disk of ${sizeBytes} bytes has ${entries} blocks of ${blockBytes}`;
    throw header.refusal(MAX_TABLE_ENTRIES, `the block table has ${found} entries, and ${needs}`);
  }
  const length = entries * ENTRY_BYTES;
  const tableOffset = header.byteCount(TABLE_OFFSET, 'the offset of the block table');
  if (tableOffset + length > file.sizeBytes) {
    const rule = `its ${length} bytes end behind the file, which has ${file.sizeBytes}`;
    throw header.refusal(TABLE_OFFSET, `the block table is at offset ${tableOffset}; ${rule}`);
  }
  return {
    blockBytes,
    table: { offset: tableOffset, entries, littleEndian: false, blank: UNUSED_ENTRY },
    metadata: [FOOTER_COPY, { offset, length: HEADER_BYTES }, { offset: tableOffset, length }],
  };
}
