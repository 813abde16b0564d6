/** What an image is, changed; what its disk reads as stays, but for its size. */
import { invalid, toNumber } from '../arguments.ts';
import type { ByteCount } from '../disk-types.ts';
import { isPolicy, type NamedFilePolicy } from '../image/chain.ts';
import { IMAGE_OPTIONS, type ImageOptions, openImageAt, qcow2HeaderOf } from '../image/image-at.ts';
import { type Amendment, amend as amendImage } from '../image/qcow2/amend.ts';
import { isBackingChoice } from '../image/qcow2/create-options.ts';
import { type EncryptionOptions, isEncryption } from '../image/qcow2/encryption.ts';
import {
  checkedInUse,
  checkOptions,
  type Checks,
  isByteCount,
  isCallback,
  isSwitch,
  isText,
  isWhole,
} from '../options.ts';
import { resizeAt } from './resize.ts';

/** What an image is to be; what is left out stays. */
export interface ImageAmendment extends Amendment {
  /** Of the disk. */
  readonly sizeBytes?: ByteCount | undefined;
}

/** Options of `amend`. */
export interface AmendOptions extends ImageOptions {
  /** The disk may become smaller: what lies behind its new end is lost. Default false. */
  readonly shrink?: boolean | undefined;
  /** For another size: which files the image may name; default none. */
  readonly backing?: NamedFilePolicy | undefined;
  /** For another size: the key of an encrypted image. */
  readonly encryption?: EncryptionOptions | undefined;
  readonly onProgress?: ((progress: AmendProgress) => unknown) | undefined;
}

const CHANGES: Checks<ImageAmendment> = {
  version: isWhole(2, 3),
  lazyRefcounts: isSwitch,
  refcountBits: checkedInUse,
  backing: isBackingChoice,
  dataFileRaw: isSwitch,
  sizeBytes: isByteCount,
};

const AMEND_OPTIONS: Checks<AmendOptions> = {
  ...IMAGE_OPTIONS,
  shrink: isSwitch,
  backing: isPolicy,
  encryption: isEncryption,
  onProgress: isCallback,
};

/** How many of the tables that have to change are changed. */
export interface AmendProgress {
  readonly done: number;
  readonly total: number;
}

/**
 * Changes a qcow2 image: its version, refcounts, backing file, size. A cut leaves an image that is
 * whole, of which some of it is changed; the same can be asked for again.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT, ERR_SLUICE_UNSUPPORTED, ERR_SLUICE_CORRUPT,
 *   ERR_SLUICE_NO_SPACE
 */
export async function amend(
  path: string,
  changes: ImageAmendment,
  options: AmendOptions = {},
): Promise<void> {
  checkOptions(changes, CHANGES, 'an amendment');
  isText(path, 'path');
  checkOptions(options, AMEND_OPTIONS, 'amend');
  const { sizeBytes, ...others } = changes;
  const wanted = sizeBytes === undefined ? undefined : toNumber(sizeBytes, 'sizeBytes');
  await refuseShrinking(path, wanted, options);
  const hasOthers = Object.values(others).some((value) => value !== undefined);
  // The disk of an image of version 2 keeps its size while it has snapshots.
  const isSizeFirst = changes.version === 2;
  if (isSizeFirst) await setSize(path, wanted, options);
  if (hasOthers) await amendAt(path, others, options);
  if (!isSizeFirst) await setSize(path, wanted, options);
}

async function amendAt(path: string, changes: Amendment, options: AmendOptions): Promise<void> {
  const { signal, onProgress } = options;
  await using image = await openImageAt(path, options, true);
  const header = qcow2HeaderOf(image, 'options to amend');
  const { isBlockDevice } = image.backend;
  await amendImage(image.file, header, path, changes, {
    isBlockDevice,
    ...(signal === undefined ? {} : { signal }),
    ...(onProgress === undefined
      ? {}
      : { onProgress: (done, total) => onProgress({ done, total }) }),
  });
}

/** Before anything is changed. */
async function refuseShrinking(
  path: string,
  wanted: number | undefined,
  options: AmendOptions,
): Promise<void> {
  await using image = await openImageAt(path, options, false);
  const { sizeBytes } = qcow2HeaderOf(image, 'options to amend');
  if (wanted === undefined || wanted >= sizeBytes || options.shrink === true) return;
  const found = `${wanted} bytes are less than the disk has (${sizeBytes})`;
  throw invalid(`${found}: pass shrink: true (--force) to give up what lies behind them`);
}

async function setSize(
  path: string,
  wanted: number | undefined,
  options: AmendOptions,
): Promise<void> {
  if (wanted === undefined) return;
  await resizeAt(path, 'qcow2', () => wanted, { ...options, shrink: true });
}
