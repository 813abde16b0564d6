/**
 * What the library throws and rejects with: one class, a stable code, and the place.
 *
 * A message says what was asked, what was found and what to do about it. The code is the part
 * that programs may rely on; what the system reported is the `cause`.
 */

/** Every code that a SluiceError can carry, and what it means. */
export const ERROR_CODES = {
  ERR_SLUICE_ALIGNMENT: 'The image size does not fit the block size that O_DIRECT needs.',
  ERR_SLUICE_BUSY: 'The disk is in the middle of something that must end first.',
  ERR_SLUICE_CLOSED: 'The disk was used after it was closed.',
  ERR_SLUICE_CONNECTION:
    'An NBD server cannot be reached, or the other side says what its protocol does not have.',
  ERR_SLUICE_CORRUPT: 'The image is marked corrupt, or its metadata is damaged where it is needed.',
  ERR_SLUICE_DIRECT_UNSUPPORTED: 'O_DIRECT was asked for where the system does not offer it.',
  ERR_SLUICE_FILE_REFUSED:
    'The image names a backing or data file that is not allowed or cannot be used.',
  ERR_SLUICE_FLUSH_LATCHED:
    'A sync failed earlier; nothing is made stable until the disk is opened anew.',
  ERR_SLUICE_IMAGE: 'The image breaks a rule of its format.',
  ERR_SLUICE_INVALID_ARGUMENT: 'An option or argument has the wrong type or value.',
  ERR_SLUICE_IO: 'The system reported an input/output error; the cause has its errno.',
  ERR_SLUICE_KEY: 'The image is encrypted and the key is missing or wrong.',
  ERR_SLUICE_LOCKED: 'Another open of the image holds a lock that conflicts with this one.',
  ERR_SLUICE_LOCK_UNAVAILABLE: 'The image cannot be locked here, and a writer needs a lock.',
  ERR_SLUICE_NOT_A_DISK: 'The path names neither a regular file nor a block device.',
  ERR_SLUICE_NO_SPACE: 'The file system, the quota or the file size limit is exhausted.',
  ERR_SLUICE_OPEN: 'The system refused to open the image; the cause says why.',
  ERR_SLUICE_OUT_OF_RANGE: 'The request reaches past the end of the disk.',
  ERR_SLUICE_READ_ONLY: 'A write was sent to a disk that was opened read-only.',
  ERR_SLUICE_UNSUPPORTED: 'The disk or the system cannot do what was asked.',
  ERR_SLUICE_VIRTQUEUE: 'A virtqueue or its guest memory is not as it must be.',
} as const;

/** The stable part of an error. */
export type ErrorCode = keyof typeof ERROR_CODES;

/** The place of an error; every part is left out where it has no meaning. */
export interface ErrorPlace {
  /** What was being done: `open`, `read`, `write`, `flush`, `close` ... */
  readonly operation?: string;
  /** Byte offset on the disk. */
  readonly offset?: number;
  /** Length in bytes. */
  readonly length?: number;
  /** The image, as the caller named it. */
  readonly path?: string;
}

/** What SluiceError is made of besides its code and message. */
export interface ErrorDetails extends ErrorPlace {
  /** What the system reported. */
  readonly cause?: unknown;
}

/** The error class of the library. Compare `code`, never the message. */
export class SluiceError extends Error {
  override readonly name = 'SluiceError';
  /** One of ERROR_CODES. */
  readonly code: ErrorCode;
  declare readonly operation?: string;
  declare readonly offset?: number;
  declare readonly length?: number;
  declare readonly path?: string;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    const { cause, ...place } = details;
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    Object.assign(this, place);
  }
}
