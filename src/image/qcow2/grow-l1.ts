/**
 * A longer L1 table, in an image that no engine has open or is at work on.
 *
 * M1 The new table is stable before the header names it, in one sector, and that is stable before
 *    the old one is given back. A cut leaves one of them, and clusters that are lost at worst.
 */
import { HEADER_L1_SIZE, HEADER_L1_TABLE_OFFSET, L1_BYTES_MAX } from '../../abi/qcow2.ts';
import type { SluiceError } from '../../errors.ts';
import { notResizable } from '../../resize-error.ts';
import type { ImageFile } from '../image-file.ts';
import { type Qcow2Header, readHeader } from './header.ts';
import { l1EntriesFor } from './header-layout.ts';
import { ImageClusters } from './image-clusters.ts';

const ENTRY_BYTES = 8;

/**
 * Makes the L1 table long enough for a disk of `sizeBytes`; answers the header as it is then. The
 * refcount table may grow to `tableEntriesMax` for it.
 */
export async function growL1(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  sizeBytes: number,
  isBlockDevice: boolean,
  tableEntriesMax?: number,
): Promise<Qcow2Header> {
  const { clusterBytes, l1Entries, l1Offset } = header;
  const entries = l1EntriesFor(header, sizeBytes);
  if (entries <= l1Entries) return header;
  if (entries * ENTRY_BYTES > L1_BYTES_MAX) throw tooLarge(sizeBytes, entries);
  const usedBytes = l1Entries * ENTRY_BYTES;
  const clusters = Math.ceil(usedBytes / clusterBytes);
  const wanted = Math.ceil((entries * ENTRY_BYTES) / clusterBytes);
  if (wanted === clusters) {
    await file.write(l1Offset + usedBytes, new Uint8Array(clusters * clusterBytes - usedBytes));
    await file.sync();
    await switchL1(file, l1Offset, entries);
  } else {
    const image = await ImageClusters.of(file, header, isBlockDevice, tableEntriesMax);
    const table = new Uint8Array(wanted * clusterBytes);
    table.set(await file.read(l1Offset, usedBytes));
    const offset = await image.takeRun(wanted);
    await file.write(offset, table);
    await file.sync();
    await switchL1(file, offset, entries);
    await image.release(l1Offset, clusters);
  }
  return readHeader(file, path);
}

/** The two fields stand beside each other in one sector. */
async function switchL1(file: ImageFile, offset: number, entries: number): Promise<void> {
  const length = HEADER_L1_TABLE_OFFSET + ENTRY_BYTES - HEADER_L1_SIZE;
  const fields = new DataView(new ArrayBuffer(length));
  fields.setUint32(0, entries);
  fields.setBigUint64(HEADER_L1_TABLE_OFFSET - HEADER_L1_SIZE, BigInt(offset));
  await file.write(HEADER_L1_SIZE, new Uint8Array(fields.buffer));
  await file.sync();
}

function tooLarge(sizeBytes: number, entries: number): SluiceError {
  const found = `a disk of ${sizeBytes} bytes needs an L1 table of ${entries * ENTRY_BYTES} bytes`;
  const advice = 'larger clusters make it shorter';
  return notResizable(`${found}, more than ${L1_BYTES_MAX}; ${advice}`);
}
