/** The table of a persistent bitmap: where its bits lie, a cluster of them for each entry. */
import { L2_ENTRY_BYTES } from '../../abi/qcow2.ts';
import type { ImageFile } from '../image-file.ts';
import type { Bitmap } from './bitmap-directory.ts';
import { hex } from './fields.ts';
import type { Qcow2Header } from './header.ts';

/** No bit is set, or all of them are: there is no cluster. */
export const ALL_ZEROES = 0n;
export const ALL_ONES = 1n;

/** Bits 1 to 8 and 56 to 63. */
const RESERVED = 0xff00_0000_0000_01fen;

/** Reads the table; `problem` is the first entry that cannot be used. */
export async function readBitmapTable(
  file: ImageFile,
  header: Qcow2Header,
  { name, tableOffset, tableEntries }: Bitmap,
): Promise<{ readonly entries: bigint[]; readonly problem?: string }> {
  const bytes = await file.read(tableOffset, tableEntries * L2_ENTRY_BYTES);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const entries: bigint[] = [];
  for (let index = 0; index < tableEntries; index++) {
    const entry = view.getBigUint64(index * L2_ENTRY_BYTES);
    const found = entryProblem(entry, header, file.sizeBytes);
    if (found !== undefined) {
      const what = `bitmap ${JSON.stringify(name)}: entry ${index} of its table at`;
      return { entries, problem: `${what} ${hex(tableOffset)} is ${hex(entry)}: ${found}` };
    }
    entries.push(entry);
  }
  return { entries };
}

/** The table as it is to lie in the file. */
export function bitmapTableBytes(entries: readonly bigint[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(entries.length * L2_ENTRY_BYTES));
  for (const [index, entry] of entries.entries()) view.setBigUint64(index * L2_ENTRY_BYTES, entry);
  return new Uint8Array(view.buffer);
}

function entryProblem(
  entry: bigint,
  { clusterBytes }: Qcow2Header,
  fileBytes: number,
): string | undefined {
  if (entry === ALL_ZEROES || entry === ALL_ONES) return undefined;
  if ((entry & RESERVED) !== 0n) return 'reserved bits are set';
  if (entry % BigInt(clusterBytes) !== 0n) return 'it is no multiple of the cluster size';
  if (entry + BigInt(clusterBytes) <= BigInt(fileBytes)) return undefined;
  return `it passes the end of the file, which has ${fileBytes} bytes`;
}
