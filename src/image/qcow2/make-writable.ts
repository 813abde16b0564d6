/** What the format wants done before the first write (open.ts, O2). */
import {
  AUTOCLEAR_BITMAPS_BIT,
  AUTOCLEAR_RAW_DATA_FILE_BIT,
  HEADER_AUTOCLEAR_FEATURES,
} from '../../abi/qcow2.ts';
import type { ImageFile } from '../image-file.ts';
import { readBitmapDirectory } from './bitmap-directory.ts';
import { type Qcow2Header, readHeader } from './header.ts';
import { repairDirty } from './repair.ts';

const KNOWN = (1n << BigInt(AUTOCLEAR_BITMAPS_BIT)) | (1n << BigInt(AUTOCLEAR_RAW_DATA_FILE_BIT));
const U64_BYTES = 8;

/**
 * Repairs an image that was not closed, and takes back what it promises to those who know features
 * that are not kept up to date here. Returns the header as it is then; all of it is stable.
 */
export async function makeWritable(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
): Promise<Qcow2Header> {
  const repaired = header.dirty ? await repairDirty(file, header) : header;
  const { bitmaps } = await readBitmapDirectory(file, repaired, path);
  // A bitmap that is not to be updated stays true.
  const isKept = !bitmaps.some(({ auto }) => auto);
  const keeps = isKept ? KNOWN : KNOWN & ~(1n << BigInt(AUTOCLEAR_BITMAPS_BIT));
  const autoclear = repaired.autoclear & keeps;
  if (autoclear === repaired.autoclear) return repaired;
  const bytes = new Uint8Array(U64_BYTES);
  new DataView(bytes.buffer).setBigUint64(0, autoclear);
  await file.write(HEADER_AUTOCLEAR_FEATURES, bytes);
  await file.sync();
  return readHeader(file, path);
}
