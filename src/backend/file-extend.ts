/** Growth of an image that is in use: at its opening, and while commands are in flight. */
import { ftruncate } from 'node:fs';
import { promisify } from 'node:util';

import { ERRNO_EIO, ERRNO_ENOSPC } from '../abi/command.ts';
import { SluiceError } from '../errors.ts';
import { errnoOf } from './errno.ts';
import { type Descriptors, refuseOddSize, sizeOf } from './file-open.ts';
import type { Native } from './native.ts';

const truncateFile = promisify(ftruncate);

/** The image to extend. */
export interface ExtendTarget {
  readonly path: string;
  readonly files: Descriptors;
  readonly native: Native | null;
}

/**
 * Extends a regular file that has `fromBytes` to `toBytes`; answers 0 or an errno. A block device
 * is ENOSPC when it is smaller. A file of another size was changed behind our back: EIO, as
 * setting its size might cut it.
 */
export async function extendFile(
  { path, files, native }: ExtendTarget,
  fromBytes: number,
  toBytes: number,
): Promise<number> {
  try {
    const found = await sizeOf(files.plain, path, native);
    if (files.isBlockDevice) return found < toBytes ? ERRNO_ENOSPC : 0;
    if (found !== fromBytes) return ERRNO_EIO;
    await truncateFile(files.plain, toBytes);
    return 0;
  } catch (error) {
    return errnoOf(error);
  }
}

/** How a size that is not whole blocks is met. */
export interface SizePolicy {
  readonly writable: boolean;
  /** It is not refused: a writer extends the file, a reader reads its last block in part. */
  readonly anySize: boolean;
}

/** The size to work with of an image that has just been opened. */
export async function fitToBlocks(
  target: ExtendTarget,
  sizeBytes: number,
  blockBytes: number,
  { writable, anySize }: SizePolicy,
): Promise<number> {
  if (!anySize) refuseOddSize(target.path, sizeBytes, blockBytes);
  const wholeBytes = Math.ceil(sizeBytes / blockBytes) * blockBytes;
  if (!writable || sizeBytes === wholeBytes) return sizeBytes;
  const errno = await extendFile(target, sizeBytes, wholeBytes);
  if (errno === 0) return wholeBytes;
  const { path } = target;
  const asked = `cannot extend ${JSON.stringify(path)} from ${sizeBytes} to ${wholeBytes} bytes`;
  const message = `${asked}, which O_DIRECT needs (errno ${errno}); use a page-cache mode`;
  throw new SluiceError('ERR_SLUICE_ALIGNMENT', message, { operation: 'open', path });
}
