/**
 * VHD images, which QEMU calls vpc, as specification 1.0 of Microsoft has them: fixed ones, where
 * the disk lies before a footer, and dynamic ones, where a table says where each block of it lies.
 *
 * D1 A dynamic image is what the copy of the footer at its start says, a fixed one what the footer
 *    at its end says, as in QEMU. A structure whose checksum is wrong is not used.
 * D2 The size of the disk is the one that QEMU shows: of some creators it is what the geometry has.
 */
import { SECTOR_SIZE } from '../../abi/limits.ts';
import type { ImageFile } from '../image-file.ts';
import { Fields } from '../qcow2/fields.ts';
import type { ReadOnlyDisk } from '../read-only-disk.ts';
import { blockExtents } from './blocks.ts';
import { verifyChecksum } from './checksum.ts';
import { dynamicHeaderOf } from './dynamic-header.ts';

// Hard Disk Footer Format: fields.
const FOOTER_BYTES = 512;
const FOOTER_COOKIE = 'conectix';
const DATA_OFFSET = 16;
const CREATOR_APPLICATION = 28;
const CURRENT_SIZE = 48;
const CYLINDERS = 56;
const HEADS = 58;
const SECTORS_PER_TRACK = 59;
const DISK_TYPE = 60;
const CHECKSUM = 64;

const TYPE_FIXED = 2;
const TYPE_DYNAMIC = 3;
const TYPE_DIFFERENCING = 4;

/** D2: QEMU with force_size, Hyper-V, Disk2vhd, XenServer, XenConverter. */
const SIZED_CREATORS: ReadonlySet<string> = new Set(['qem2', 'win ', 'd2v ', 'tap\0', 'CTXS']);
/** The largest geometry; a disk that has it may be larger. */
const GEOMETRY_SECTORS_MAX = 65535 * 16 * 255;

/** Opens a VHD image: its footer, and the header of a dynamic one. */
export async function openVhd(file: ImageFile, path: string): Promise<ReadOnlyDisk> {
  const { footer, isAtStart } = await readFooter(file, path);
  checkType(footer, isAtStart);
  const sizeBytes = sizeOf(footer);
  if (!isAtStart) {
    refuseShort(footer, file, sizeBytes);
    return { sizeBytes, extents: fixedExtents };
  }
  const offset = footer.byteCount(DATA_OFFSET, 'the offset of the dynamic header');
  const header = await dynamicHeaderOf(file, path, { offset, sizeBytes });
  return {
    sizeBytes,
    clusterBytes: header.blockBytes,
    extents: (from, to) => blockExtents(file, header, path, from, to),
  };
}

/** D1. */
async function readFooter(file: ImageFile, path: string) {
  const length = Math.min(FOOTER_BYTES, file.sizeBytes);
  const start = await file.read(0, length);
  const isAtStart = hasCookie(start);
  const offset = isAtStart ? 0 : file.sizeBytes - length;
  const bytes = isAtStart ? start : await file.read(offset, length);
  const what = isAtStart ? 'the copy of the footer' : 'the footer';
  const footer = new Fields(bytes, { path, what, offset });
  if (!hasCookie(bytes)) {
    const found = 'this is not a VHD image: one begins or ends with "conectix" and 504 bytes more';
    throw footer.refusal(0, `${found}; name its format`);
  }
  if (length < FOOTER_BYTES)
    throw footer.refusal(0, `the file has ${length} bytes, and ends in it`);
  verifyChecksum(footer, CHECKSUM);
  return { footer, isAtStart };
}

function hasCookie(bytes: Uint8Array): boolean {
  return String.fromCharCode(...bytes.subarray(0, FOOTER_COOKIE.length)) === FOOTER_COOKIE;
}

function checkType(footer: Fields, isAtStart: boolean): void {
  const type = footer.u32(DISK_TYPE);
  if (type === (isAtStart ? TYPE_DYNAMIC : TYPE_FIXED)) return;
  if (type === TYPE_DIFFERENCING) {
    const found = 'it is a differencing image (type 4), a part of a disk; merge it with its parent';
    throw footer.refusal(DISK_TYPE, found, 'ERR_SLUICE_UNSUPPORTED');
  }
  if (type === TYPE_DYNAMIC) {
    const found = 'it is dynamic (type 3), and the copy of this footer at the start is damaged';
    throw footer.refusal(DISK_TYPE, `${found}; copy the last 512 bytes over the first`);
  }
  const kinds = isAtStart ? 'begins with it is dynamic (3)' : 'only ends with it is fixed (2)';
  throw footer.refusal(DISK_TYPE, `its type is ${type}, and an image that ${kinds}`);
}

/** D2. */
function sizeOf(footer: Fields): number {
  const heads = footer.u8(HEADS);
  const sectors = footer.u16(CYLINDERS) * heads * footer.u8(SECTORS_PER_TRACK);
  const name = footer.bytes.subarray(CREATOR_APPLICATION, CREATOR_APPLICATION + 4);
  const isSized = SIZED_CREATORS.has(String.fromCharCode(...name));
  if (!isSized && sectors !== GEOMETRY_SECTORS_MAX) return sectors * SECTOR_SIZE;
  const size = footer.byteCount(CURRENT_SIZE, 'the size of the disk');
  return size - (size % SECTOR_SIZE);
}

function refuseShort(footer: Fields, file: ImageFile, sizeBytes: number): void {
  const room = file.sizeBytes - FOOTER_BYTES;
  if (sizeBytes <= room) return;
  const found = `the disk has ${sizeBytes} bytes, and there are ${room} before the footer`;
  throw footer.refusal(CURRENT_SIZE, `${found}; the image is cut off`);
}

/** The disk begins where the file begins. */
async function* fixedExtents(from: number, to: number) {
  if (from < to) yield { start: from, length: to - from, kind: 'data', offset: from } as const;
}
