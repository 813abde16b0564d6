/** A new, empty image. */
import { dirname, resolve } from 'node:path';

import { invalid, toNumber } from '../arguments.ts';
import { NewImageFile } from '../copy/new-image-file.ts';
import type { ByteCount } from '../disk-types.ts';
import { isPolicy, type NamedFilePolicy } from '../image/chain.ts';
import { fill, type FillProgress, type FillWork } from '../image/fill.ts';
import type { ImageFormat } from '../image/format.ts';
import { createImage } from '../image/qcow2/create.ts';
import { layoutOf } from '../image/qcow2/create-layout.ts';
import {
  checkRawImage,
  isPreallocation,
  NEW_QCOW2_OPTIONS,
  newImageOf,
  type NewQcow2Options,
  type Preallocation,
} from '../image/qcow2/create-options.ts';
import { toSectors } from '../image/sectors.ts';
import {
  checkOptions,
  type Checks,
  isByteCount,
  isCallback,
  isOneOf,
  isSignal,
  isSwitch,
  isText,
  objectOf,
} from '../options.ts';
import { backingBytes } from './create-names.ts';
import { NewFiles, newPathsOf } from './new-files.ts';

/** Options of `create`. */
export interface CreateImageOptions {
  /** Default raw. */
  readonly format?: ImageFormat | undefined;
  /** Of the disk, rounded up to sectors of 512; without it: that of the backing file. */
  readonly sizeBytes?: ByteCount | undefined;
  /** Default off. `metadata` is for qcow2. */
  readonly preallocation?: Preallocation | undefined;
  /** Of a qcow2 image. Names in it are as they stand in the image: they begin in its folder. */
  readonly image?: NewQcow2Options | undefined;
  /** Which backing files may be opened; default none. */
  readonly backing?: NamedFilePolicy | undefined;
  /** Opens the backing file, which must be what it is said to be; default true. */
  readonly openBacking?: boolean | undefined;
  /** Stops the work; then nothing was made. */
  readonly signal?: AbortSignal | undefined;
  /** Told where data is set aside or written. */
  readonly onProgress?: ((progress: FillProgress) => unknown) | undefined;
}

const CREATE_OPTIONS: Checks<CreateImageOptions> = {
  format: isOneOf('raw', 'qcow2'),
  sizeBytes: isByteCount,
  preallocation: isPreallocation,
  image: objectOf(NEW_QCOW2_OPTIONS),
  backing: isPolicy,
  openBacking: isSwitch,
  signal: isSignal,
  onProgress: isCallback,
};

/** What was made. */
export interface CreatedImage {
  readonly path: string;
  readonly format: ImageFormat;
  /** Of the disk. */
  readonly sizeBytes: number;
}

/**
 * Makes an image, and its data file if there is to be one. A file takes its name when it is whole
 * and stable: until then what has the name stays as it is. A block device is written where it is.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT for options that no image can have, before
 *   anything is made; ERR_SLUICE_LOCKED where an image that is in use has the name;
 *   ERR_SLUICE_FILE_REFUSED for a backing file that may not be opened
 */
export async function create(
  path: string,
  options: CreateImageOptions = {},
): Promise<CreatedImage> {
  isText(path, 'path');
  checkOptions(options, CREATE_OPTIONS, 'create');
  options.signal?.throwIfAborted();
  return options.format === 'qcow2' ? createQcow2(path, options) : createRaw(path, options);
}

async function createRaw(path: string, options: CreateImageOptions): Promise<CreatedImage> {
  const { preallocation: how = 'off', image } = options;
  checkRawImage(how, image);
  if (options.sizeBytes === undefined) throw noSize();
  const asked = toNumber(options.sizeBytes, 'sizeBytes');
  const sizeBytes = toSectors(asked);
  await using files = await NewFiles.create({ path });
  const bytes = new NewImageFile(files.image, path);
  await bytes.truncate(sizeBytes);
  await fill(bytes, { from: 0, to: sizeBytes, how }, workOf(options));
  await finish(options, files);
  return { path, format: 'raw', sizeBytes };
}

async function createQcow2(path: string, options: CreateImageOptions): Promise<CreatedImage> {
  const { image = {}, preallocation = 'off', openBacking = true } = options;
  // Names and numbers are refused before a file is opened for them.
  newImageOf({ ...image, preallocation, sizeBytes: 0 });
  const { sizeBytes, backing } = await sizeOf(path, options, openBacking);
  const made = newImageOf({ ...image, preallocation, sizeBytes });
  layoutOf(made);
  const paths = await newPathsOf(path, image, backing);
  await using files = await NewFiles.create(paths);
  const dataFile = files.data && new NewImageFile(files.data, paths.dataPath ?? path);
  await createImage(new NewImageFile(files.image, path), made, { ...workOf(options), dataFile });
  await finish(options, files);
  return { path, format: 'qcow2', sizeBytes: made.sizeBytes };
}

async function finish({ signal }: CreateImageOptions, files: NewFiles): Promise<void> {
  signal?.throwIfAborted();
  await files.finish(true);
}

function workOf({ signal, onProgress }: CreateImageOptions): FillWork {
  return { signal, onProgress };
}

/** The size that was given, or the backing file's; and where that is. */
async function sizeOf(path: string, options: CreateImageOptions, openBacking: boolean) {
  const { sizeBytes, image: { backing } = {} } = options;
  const given = sizeBytes === undefined ? undefined : toNumber(sizeBytes, 'sizeBytes');
  if (backing === undefined || !openBacking) {
    if (given === undefined) throw noSize();
    const name = backing === undefined ? undefined : resolve(dirname(path), backing.name);
    return { sizeBytes: given, backing: name };
  }
  const found = await backingBytes(path, backing, options);
  return { sizeBytes: given ?? found.sizeBytes, backing: found.path };
}

function noSize(): Error {
  return invalid('the size of the disk is missing; pass sizeBytes');
}
