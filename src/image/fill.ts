/** Room for data that is not there yet: set aside by the host, or written. */
import type { ImageFile } from './image-file.ts';
import type { SectorCipher } from './qcow2/crypt-view.ts';
import type { Preallocation } from './qcow2/create-options.ts';

/** A file that can set room aside. */
export interface FillFile extends ImageFile {
  /** Cutting it leaves the bytes that it holds: a block device. */
  readonly keepsBytes?: boolean;
  /** The host sets the range aside; it reads as before. False: it cannot be done here. */
  allocate?(offset: number, length: number): Promise<boolean>;
}

/** How work on room is followed and stopped. */
export interface FillWork {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: FillProgress) => unknown) | undefined;
}

/** How far it is. */
export interface FillProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** Bytes of the file, which is as long, and how room is made for them. */
export interface FillRange {
  readonly from: number;
  readonly to: number;
  readonly how: Preallocation;
  /** Zeroes of the disk are written with it. */
  readonly cipher?: SectorCipher | undefined;
}

const WRITE_BYTES = 1024 * 1024;
const ALLOCATE_BYTES = 1024 * 1024 * 1024;
const SECTOR_BYTES = 512;

/** Makes room for a range. What cannot be set aside is written. */
export async function fill(file: FillFile, range: FillRange, work: FillWork = {}): Promise<void> {
  const { from, to, how } = range;
  if (how === 'off' || how === 'metadata') return;
  const step = how === 'falloc' ? ALLOCATE_BYTES : WRITE_BYTES;
  const zeroes = new Uint8Array(WRITE_BYTES);
  for (let at = from; at < to; at += step) {
    work.signal?.throwIfAborted();
    const length = Math.min(step, to - at);
    const isThere = how === 'falloc' && ((await file.allocate?.(at, length)) ?? false);
    if (!isThere) await writeZeroes(file, at, length, zeroes, range, work);
    await work.onProgress?.({ doneBytes: at + length - from, totalBytes: to - from });
  }
}

async function writeZeroes(
  file: FillFile,
  from: number,
  length: number,
  zeroes: Uint8Array,
  { cipher }: FillRange,
  { signal }: FillWork,
): Promise<void> {
  for (let done = 0; done < length; done += zeroes.length) {
    signal?.throwIfAborted();
    const piece = zeroes.subarray(0, Math.min(zeroes.length, length - done));
    if (cipher !== undefined) {
      piece.fill(0);
      cipher.encrypt(piece, (from + done) / SECTOR_BYTES);
    }
    await file.write(from + done, piece);
  }
}
