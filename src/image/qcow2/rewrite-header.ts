/**
 * The first cluster, written anew: fields, extensions and the name of the backing file.
 *
 *     old ─▶ the new one behind both, stable ─▶ sector 0 points there, stable
 *         ─▶ the new one in its place, stable ─▶ sector 0 points to it, stable ─▶ the rest cleared
 *
 * W1 A sector is written as a whole or not at all. What the header names is told by sector 0 alone
 *    (header_length, where the backing name is), so a write of it switches from one to the other.
 * W2 A byte that the header on disk refers to is not changed but in the only sector that changes.
 *    Bytes beside it in the same sector may: they are written together with it, as it is.
 * W3 What sector 0 is going to refer to is stable before it does.
 * W4 Where the old and the new one would need the same bytes, the new one stands behind both for a
 *    while: header_length says where its extensions begin. What lies between are fields that are
 *    not known to anybody; that they are none is noted in sector 0, so that a later rewrite takes
 *    no remains of a cut for them. Extensions of version 2 begin at byte 72 always: the name alone
 *    moves, or, if they pass sector 0, the image is of version 3 for that while.
 * W5 A cut leaves the old or the new header, at worst as W4 says. Where there is no room for both
 *    (clusters of 1 or 2 KiB with long names) the change is refused, not torn.
 * W6 Everything is known to fit, and to be a header, before the first write.
 */
import {
  HEADER_BACKING_FILE_OFFSET,
  HEADER_BACKING_FILE_SIZE,
  HEADER_BYTES_V2,
} from '../../abi/qcow2.ts';
import { SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import {
  contentOf,
  type ExtensionData,
  type HeaderChanges,
  type HeaderContent,
  movingFields,
} from './header-content.ts';
import { type HeaderStart, startOf } from './header-start.ts';
import { parseHeader, type Qcow2Header, readHeader } from './header.ts';

/** Bytes for the first cluster. */
interface Placed {
  readonly bytes: Uint8Array;
  /** Where its extensions, its end marker and its name end. */
  readonly end: number;
}

/** How a header becomes another one; nothing of it is written yet. */
export interface HeaderPlan {
  /** As it will be. */
  readonly header: Qcow2Header;
  readonly old: Placed;
  readonly moved?: Placed & { readonly from: number };
  readonly final: Placed;
}

const SECTOR_BYTES = 512;
const EXTENSION_HEAD_BYTES = 8;

/**
 * Plans a rewrite of the header (W6).
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT when it does not fit the first cluster,
 *   ERR_SLUICE_UNSUPPORTED when it cannot be done safely (W5)
 */
export async function planHeader(
  file: ImageFile,
  { clusterBytes }: Qcow2Header,
  path: string,
  changes: HeaderChanges,
): Promise<HeaderPlan> {
  const bytes = await file.read(0, clusterBytes);
  const start = startOf(bytes, path);
  const old = { bytes, end: endOf(start) };
  const content = contentOf(start, path, changes);
  const final = place(content, clusterBytes, content.fields.length);
  if (final === undefined) throw tooLong(path, clusterBytes);
  const header = parseHeader(final.bytes, path);
  if (isDirect(old, final)) return { header, old, final };
  return { header, old, final, moved: move(content, old, final, path) };
}

/** Carries a plan out; the new header is stable then. */
export async function writeHeader(file: ImageFile, plan: HeaderPlan): Promise<void> {
  const { old, moved, final } = plan;
  if (moved !== undefined) {
    await file.write(moved.from, moved.bytes.subarray(moved.from, moved.end));
    await file.sync();
    await file.write(0, moved.bytes.subarray(0, SECTOR_BYTES));
    await file.sync();
  }
  await switchTo(file, moved === undefined ? old.bytes : undefined, final);
  const usedEnd = old.bytes.findLastIndex((byte) => byte !== 0) + 1;
  const dirtyEnd = Math.max(usedEnd, moved?.end ?? 0);
  if (dirtyEnd <= final.end) return;
  await file.write(final.end, new Uint8Array(dirtyEnd - final.end));
  await file.sync();
}

/** Both in one: plans a rewrite, and does it; the header as it is then. */
export async function rewriteHeader(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  changes: HeaderChanges,
): Promise<Qcow2Header> {
  await writeHeader(file, await planHeader(file, header, path, changes));
  return readHeader(file, path);
}

/** First what follows sector 0, then sector 0; what is there already is not written. */
async function switchTo(
  file: ImageFile,
  there: Uint8Array | undefined,
  { bytes, end }: Placed,
): Promise<void> {
  const changed = there === undefined ? allSectors(end) : sectorsOfChange(there, bytes, end);
  const behind = changed.filter((sector) => sector > 0);
  for (const sector of behind) {
    const at = sector * SECTOR_BYTES;
    await file.write(at, bytes.subarray(at, Math.min(at + SECTOR_BYTES, end)));
  }
  if (behind.length > 0) await file.sync();
  if (!changed.includes(0)) return;
  await file.write(0, bytes.subarray(0, SECTOR_BYTES));
  await file.sync();
}

function allSectors(end: number): number[] {
  return Array.from({ length: Math.ceil(end / SECTOR_BYTES) }, (_, sector) => sector);
}

function sectorsOfChange(there: Uint8Array, bytes: Uint8Array, end: number): number[] {
  return allSectors(end).filter((sector) => {
    const from = sector * SECTOR_BYTES;
    const to = Math.min(from + SECTOR_BYTES, end);
    return !isSame(there, bytes, from, to);
  });
}

/** W2: one sector changes, or nothing behind sector 0 that the old header refers to. */
function isDirect(old: Placed, final: Placed): boolean {
  if (sectorsOfChange(old.bytes, final.bytes, final.end).length <= 1) return true;
  return isSame(old.bytes, final.bytes, SECTOR_BYTES, Math.min(old.end, final.end));
}

function isSame(a: Uint8Array, b: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to; at++) if (a[at] !== b[at]) return false;
  return true;
}

/** W4. */
function move(content: HeaderContent, old: Placed, final: Placed, path: string) {
  const { fields, extensions } = content;
  const clusterBytes = final.bytes.length;
  const from = Math.ceil(Math.max(old.end, final.end) / 8) * 8;
  const isVersion2 = fields.length === HEADER_BYTES_V2;
  const isShort = fields.length + lengthOf(extensions) <= SECTOR_BYTES;
  const moved =
    isVersion2 && isShort
      ? place(content, clusterBytes, fields.length, from)
      : place({ ...content, fields: movingFields(fields, from) }, clusterBytes, from);
  if (moved !== undefined) return { ...moved, from };
  const found = `the old and the new header do not fit the first ${clusterBytes} bytes together`;
  const what = `cannot change the header of ${JSON.stringify(path)} so that a power cut cannot`;
  const advice = 'use a shorter name, or convert it to larger clusters';
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `${what} destroy it: ${found}; ${advice}`, {
    path,
  });
}

/** The bytes of a first cluster; undefined when it is too small. */
function place(
  { fields, extensions, name }: HeaderContent,
  clusterBytes: number,
  extensionsAt: number,
  nameFrom = 0,
): Placed | undefined {
  const extensionsEnd = extensionsAt + lengthOf(extensions);
  const nameAt = Math.max(extensionsEnd, nameFrom);
  const end = name.length === 0 ? extensionsEnd : nameAt + name.length;
  if (end > clusterBytes) return undefined;
  const bytes = new Uint8Array(clusterBytes);
  const view = new DataView(bytes.buffer);
  bytes.set(fields);
  let at = extensionsAt;
  for (const { type, data } of extensions) {
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    bytes.set(data, at + EXTENSION_HEAD_BYTES);
    at += EXTENSION_HEAD_BYTES + padded(data.length);
  }
  if (name.length === 0) return { bytes, end };
  view.setBigUint64(HEADER_BACKING_FILE_OFFSET, BigInt(nameAt));
  view.setUint32(HEADER_BACKING_FILE_SIZE, name.length);
  bytes.set(name, nameAt);
  return { bytes, end };
}

/** With the end marker. */
function lengthOf(extensions: readonly ExtensionData[]): number {
  const bytes = extensions.map(({ data }) => EXTENSION_HEAD_BYTES + padded(data.length));
  return bytes.reduce((sum, length) => sum + length, EXTENSION_HEAD_BYTES);
}

function padded(length: number): number {
  return Math.ceil(length / 8) * 8;
}

/** Where the last byte that a header refers to ends. */
function endOf({ header, headerBytes, extensions, clusterBytes }: HeaderStart): number {
  const last = extensions.list.at(-1);
  const listEnd = last === undefined ? headerBytes : last.offset + padded(last.length);
  const nameOffset = Number(header.u64(HEADER_BACKING_FILE_OFFSET));
  const nameEnd = nameOffset === 0 ? 0 : nameOffset + header.u32(HEADER_BACKING_FILE_SIZE);
  return Math.min(Math.max(listEnd + EXTENSION_HEAD_BYTES, nameEnd), clusterBytes);
}

function tooLong(path: string, clusterBytes: number): SluiceError {
  const found = `its names and extensions do not fit a first cluster of ${clusterBytes} bytes`;
  const advice = 'use a shorter name, or convert it to larger clusters';
  const what = `cannot change the header of ${JSON.stringify(path)}`;
  return new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', `${what}: ${found}; ${advice}`, { path });
}
