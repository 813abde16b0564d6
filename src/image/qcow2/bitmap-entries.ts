/** The bitmap directory as bytes: entries are kept as they are, or made. */
import {
  BITMAP_ENTRY_BYTES,
  BITMAP_EXTRA_SIZE,
  BITMAP_FLAG_AUTO_BIT,
  BITMAP_FLAGS,
  BITMAP_GRANULARITY_BITS,
  BITMAP_NAME_SIZE,
  BITMAP_TABLE_OFFSET,
  BITMAP_TABLE_SIZE,
  BITMAP_TYPE,
  BITMAP_TYPE_DIRTY,
} from '../../abi/qcow2.ts';

/** What an entry of a new bitmap says. */
export interface NewEntry {
  readonly name: Uint8Array;
  readonly tableOffset: number;
  readonly tableEntries: number;
  readonly granularityBits: number;
  readonly enabled: boolean;
}

/** The entries of a directory that can be read, each with its padding. */
export function splitEntries(directory: Uint8Array, count: number): Uint8Array[] {
  const view = new DataView(directory.buffer, directory.byteOffset, directory.length);
  const entries: Uint8Array[] = [];
  for (let at = 0; entries.length < count;) {
    const extraBytes = view.getUint32(at + BITMAP_EXTRA_SIZE);
    const nameBytes = view.getUint16(at + BITMAP_NAME_SIZE);
    const end = at + Math.ceil((BITMAP_ENTRY_BYTES + extraBytes + nameBytes) / 8) * 8;
    entries.push(directory.slice(at, end));
    at = end;
  }
  return entries;
}

/** The entry of a new bitmap. */
export function entryBytes(entry: NewEntry): Uint8Array {
  const { name, tableOffset, tableEntries, granularityBits, enabled } = entry;
  const bytes = new Uint8Array(entryLength(name));
  const view = new DataView(bytes.buffer);
  view.setBigUint64(BITMAP_TABLE_OFFSET, BigInt(tableOffset));
  view.setUint32(BITMAP_TABLE_SIZE, tableEntries);
  view.setUint32(BITMAP_FLAGS, enabled ? 1 << BITMAP_FLAG_AUTO_BIT : 0);
  view.setUint8(BITMAP_TYPE, BITMAP_TYPE_DIRTY);
  view.setUint8(BITMAP_GRANULARITY_BITS, granularityBits);
  view.setUint16(BITMAP_NAME_SIZE, name.length);
  bytes.set(name, BITMAP_ENTRY_BYTES);
  return bytes;
}

/** Bytes of the entry of a new bitmap, with its padding. */
export function entryLength(name: Uint8Array): number {
  return Math.ceil((BITMAP_ENTRY_BYTES + name.length) / 8) * 8;
}
