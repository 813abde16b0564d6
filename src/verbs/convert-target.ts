/** The image that a copy makes. */
import { access } from 'node:fs/promises';

import { invalid } from '../arguments.ts';
import type { CodecPool } from '../copy/codec-pool.ts';
import { FileWrites } from '../copy/file-writes.ts';
import { ImageTarget } from '../copy/image-target.ts';
import { NewImageFile } from '../copy/new-image-file.ts';
import { RawTarget } from '../copy/raw-target.ts';
import type { Target } from '../copy/target.ts';
import { SluiceError } from '../errors.ts';
import { fill } from '../image/fill.ts';
import type { ImageFormat } from '../image/format.ts';
import { layoutOf } from '../image/qcow2/create-layout.ts';
import {
  checkRawImage,
  isPreallocation,
  NEW_QCOW2_OPTIONS,
  type NewImage,
  newImageOf,
  type NewQcow2Options,
  type Preallocation,
} from '../image/qcow2/create-options.ts';
import { makeLuksArea } from '../image/qcow2/luks-create.ts';
import { type Check, type Checks, isOneOf, isSignal, isSwitch, objectOf } from '../options.ts';
import { pathBeside } from './create-names.ts';
import { NewFiles, type NewPaths, newPathsOf } from './new-files.ts';

/** What is made of the disk. */
export interface TargetOptions {
  /** Format of what is made; default raw. */
  readonly targetFormat?: ImageFormat | undefined;
  /** Of a qcow2 image that is made; its size is the source's. */
  readonly image?: NewQcow2Options | undefined;
  /** Room for what is zeroes; default off. `metadata` is for qcow2. */
  readonly preallocation?: Preallocation | undefined;
  /** Compress the clusters of a qcow2 image. */
  readonly compress?: boolean | undefined;
  /** Runs of zeroes of as many bytes take no space; 0: all of them do. Default 4096. */
  readonly sparseBytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Granules must fit the pieces. */
const isSparseBytes: Check = (value, name) => {
  const isGranule =
    typeof value === 'number' &&
    value >= 512 &&
    value <= 2 ** 21 &&
    Number.isInteger(Math.log2(value));
  if (isGranule || value === 0) return;
  throw invalid(`${name} is 0 or a power of two from 512 to 2 MiB`);
};

/** Checks of TargetOptions. */
export const TARGET_OPTIONS: Checks<TargetOptions> = {
  targetFormat: isOneOf('raw', 'qcow2'),
  image: objectOf(NEW_QCOW2_OPTIONS),
  preallocation: isPreallocation,
  compress: isSwitch,
  sparseBytes: isSparseBytes,
  signal: isSignal,
};

/** What is written, and the files that it goes into. */
export interface NewTarget {
  readonly target: Target;
  readonly files: NewFiles;
}

export const DEFAULT_SPARSE_BYTES = 4096;

/** Everything that can be wrong is found before a file is made. */
export async function newTarget(
  path: string,
  sizeBytes: number,
  options: TargetOptions,
  codecs: CodecPool,
): Promise<NewTarget> {
  const { targetFormat = 'raw' } = options;
  if (targetFormat === 'raw') return newRaw(path, sizeBytes, options);
  return newQcow2(path, newQcow2Of(sizeBytes, options), options, codecs);
}

/** What is made of a disk of that size. @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT */
export function newQcow2Of(sizeBytes: number, options: TargetOptions): NewImage {
  const { image = {}, preallocation = 'off', compress } = options;
  const made = newImageOf({ ...image, preallocation, sizeBytes });
  layoutOf(made);
  if (compress !== true) return made;
  const other = [
    made.encryption !== undefined ? 'encrypted' : undefined,
    made.dataFile !== undefined ? 'in a data file' : undefined,
    preallocation !== 'off' ? 'preallocated' : undefined,
  ].find((name) => name !== undefined);
  if (other === undefined) return made;
  throw invalid(`clusters are not both compressed and ${other}; leave out one of the two`);
}

/** Whatever the size is. @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT */
export function checkTarget(options: TargetOptions): void {
  if (options.targetFormat === 'qcow2') newQcow2Of(0, options);
  else checkRaw(options);
}

function checkRaw({ image, preallocation = 'off', compress }: TargetOptions): void {
  if (compress === true) {
    throw invalid('a raw image cannot be compressed; pass targetFormat: qcow2');
  }
  checkRawImage(preallocation, image);
}

async function newRaw(path: string, sizeBytes: number, options: TargetOptions): Promise<NewTarget> {
  const { preallocation: how = 'off', sparseBytes = DEFAULT_SPARSE_BYTES, signal } = options;
  return targetIn({ path }, async ({ image: file }) => {
    const range = { from: 0, to: sizeBytes, how } as const;
    if (how === 'falloc') await fill(new NewImageFile(file, path), range, { signal });
    const granule = how === 'full' ? 0 : sparseBytes;
    return new RawTarget(new FileWrites(file, path), { sizeBytes, sparseBytes: granule });
  });
}

async function newQcow2(
  path: string,
  image: NewImage,
  { compress, sparseBytes, signal }: TargetOptions,
  codecs: CodecPool,
): Promise<NewTarget> {
  const { backing, encryption } = image;
  const backingPath = backing && pathBeside(path, 'backing', backing.name);
  const paths = await newPathsOf(path, image, backingPath);
  if (backingPath !== undefined) await refuseMissing(backingPath);
  const luks = encryption === undefined ? undefined : await makeLuksArea(encryption);
  signal?.throwIfAborted();
  return targetIn(paths, async ({ image: file, data }) => {
    const { dataPath = path } = paths;
    // Without data; where every cluster has its place it is all that the image takes.
    const leastBytes = layoutOf(image).clusters * image.clusterBytes;
    if (file.isBlockDevice) await new NewImageFile(file, path).truncate(leastBytes);
    return new ImageTarget(new FileWrites(file, path), {
      image,
      codecs: compress === true ? codecs : undefined,
      isFull: sparseBytes === 0,
      data: data && new FileWrites(data, dataPath),
      room: new NewImageFile(data ?? file, dataPath),
      luks,
    });
  });
}

/** A copy of what is not in a backing file is worth nothing without it. */
async function refuseMissing(backingPath: string): Promise<void> {
  await access(backingPath).catch((cause: unknown) => {
    const { code = 'unknown error' } = cause as NodeJS.ErrnoException;
    const found = `cannot find the backing file ${JSON.stringify(backingPath)} (${code})`;
    throw new SluiceError('ERR_SLUICE_OPEN', `${found}; check its name`, { cause });
  });
}

/** What is made goes into new files. */
async function targetIn(
  paths: NewPaths,
  make: (files: NewFiles) => Target | Promise<Target>,
): Promise<NewTarget> {
  const files = await NewFiles.create(paths);
  try {
    return { target: await make(files), files };
  } catch (error) {
    await files[Symbol.asyncDispose]();
    throw error;
  }
}
