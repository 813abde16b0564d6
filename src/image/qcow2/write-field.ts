/** One field of the header. */
import type { ImageFile } from '../image-file.ts';

const U64_BYTES = 8;

/** Writes 64 bits of the header at `offset`; they and all that was written before are stable. */
export async function writeU64(file: ImageFile, offset: number, value: bigint): Promise<void> {
  const bytes = new DataView(new ArrayBuffer(U64_BYTES));
  bytes.setBigUint64(0, value);
  await file.write(offset, new Uint8Array(bytes.buffer));
  await file.sync();
}
