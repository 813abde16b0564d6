/** A new size for an image that is open: no command is in flight meanwhile. */
import { ftruncate } from 'node:fs';
import { promisify } from 'node:util';

import { ERRNO_EDQUOT, ERRNO_EFBIG, ERRNO_ENOSPC } from '../abi/command.ts';
import { type ErrorCode, SluiceError } from '../errors.ts';
import { errnoOf } from './errno.ts';
import { type Descriptors, sizeOf } from './file-open.ts';
import type { Native } from './native.ts';

const truncateFile = promisify(ftruncate);
const FULL: ReadonlySet<number> = new Set([ERRNO_ENOSPC, ERRNO_EDQUOT, ERRNO_EFBIG]);

/** The image to resize. */
export interface ResizeTarget {
  readonly path: string;
  readonly files: Descriptors;
  readonly native: Native | null;
  readonly readOnly: boolean;
  /** 1 in page-cache mode. */
  readonly blockBytes: number;
}

/**
 * Cuts or extends a regular file; what is new reads as zeroes. A block device has the size it has:
 * it must be large enough already.
 */
export async function resizeFile(target: ResizeTarget, sizeBytes: number): Promise<void> {
  const { files, path, native, blockBytes } = target;
  if (sizeBytes % blockBytes !== 0) {
    const reason = `O_DIRECT needs whole blocks of ${blockBytes} bytes`;
    throw refuse('ERR_SLUICE_ALIGNMENT', path, sizeBytes, reason);
  }
  if (files.isBlockDevice) {
    const found = await sizeOf(files.plain, path, native);
    if (sizeBytes <= found) return;
    const reason = `the device has ${found} bytes; enlarge it first`;
    throw refuse('ERR_SLUICE_INVALID_ARGUMENT', path, sizeBytes, reason);
  }
  if (target.readOnly) {
    const reason = 'the disk is open read-only; open it with writable: true';
    throw refuse('ERR_SLUICE_READ_ONLY', path, sizeBytes, reason);
  }
  await truncateFile(files.plain, sizeBytes).catch((cause: unknown) => {
    if (!FULL.has(errnoOf(cause))) {
      throw refuse('ERR_SLUICE_IO', path, sizeBytes, 'the system reported an error', cause);
    }
    const reason = 'the file system, the quota or the file size limit is exhausted';
    throw refuse('ERR_SLUICE_NO_SPACE', path, sizeBytes, reason, cause);
  });
}

function refuse(
  code: ErrorCode,
  path: string,
  sizeBytes: number,
  reason: string,
  cause?: unknown,
): SluiceError {
  const message = `cannot resize ${JSON.stringify(path)} to ${sizeBytes} bytes: ${reason}`;
  return new SluiceError(code, message, { operation: 'resize', path, cause });
}
