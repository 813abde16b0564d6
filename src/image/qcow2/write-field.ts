/** One field of the header. */
import { AUTOCLEAR_BITMAPS_BIT, AUTOCLEAR_RAW_DATA_FILE_BIT } from '../../abi/qcow2.ts';
import type { ImageFile } from '../image-file.ts';

const U64_BYTES = 8;

/** The autoclear features that are kept up to date; the others are taken back by who writes. */
export const KNOWN_AUTOCLEAR: bigint =
  (1n << BigInt(AUTOCLEAR_BITMAPS_BIT)) | (1n << BigInt(AUTOCLEAR_RAW_DATA_FILE_BIT));

/** Writes 64 bits of the header at `offset`; they and all that was written before are stable. */
export async function writeU64(file: ImageFile, offset: number, value: bigint): Promise<void> {
  const bytes = new DataView(new ArrayBuffer(U64_BYTES));
  bytes.setBigUint64(0, value);
  await file.write(offset, new Uint8Array(bytes.buffer));
  await file.sync();
}
