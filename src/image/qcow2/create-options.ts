/** What a new image is to be: the options of callers, checked and completed. */
import {
  BACKING_NAME_BYTES_MAX,
  CLUSTER_BITS_MAX,
  CLUSTER_BITS_MIN,
  EXTENDED_L2_CLUSTER_BITS_MIN,
  REFCOUNT_ORDER_MAX,
} from '../../abi/qcow2.ts';
import { invalid, show, toWhole } from '../../arguments.ts';
import {
  type Check,
  checkOptions,
  type Checks,
  isOneOf,
  isSwitch,
  isWhole,
  objectOf,
  pick,
} from '../../options.ts';
import { toSectors } from '../sectors.ts';
import { isNewLuks, type NewLuks } from './luks-options.ts';

/** What is set aside for data that is not there yet. */
export type Preallocation = 'off' | 'metadata' | 'falloc' | 'full';

/** Options of createImage; all but the size are optional. */
export interface CreateOptions {
  /** Capacity of the disk in bytes; rounded up to whole sectors of 512. */
  readonly sizeBytes: number;
  /** Of the format; default 3. Version 2 has none of the options below but the backing file. */
  readonly version?: 2 | 3;
  /** Clusters have 2^this many bytes, 9 to 21, from 14 with extended L2 entries; default 16. */
  readonly clusterBits?: number;
  /** Refcounts have 2^this many bits, 0 to 6; default 4. */
  readonly refcountOrder?: number;
  /** Subclusters: 32 in a cluster. Default false. */
  readonly extendedL2?: boolean;
  /** Refcounts may be stale while the image is in use. Default false. */
  readonly lazyRefcounts?: boolean;
  /** What compressed clusters will be compressed with; default deflate. */
  readonly compression?: 'deflate' | 'zstd';
  /** The name as it is to stand in the image; nothing is opened. */
  readonly backing?: { readonly name: string; readonly format: 'raw' | 'qcow2' };
  /**
   * Guest data goes to another file, which the caller makes. `raw`: that file is always a raw image
   * of the disk; it must have as many bytes, to whole clusters. There is no backing file then.
   */
  readonly dataFile?: { readonly name: string; readonly raw: boolean };
  /**
   * `metadata`: every cluster has its place, which may be a hole of the file; `falloc`: the host
   * has set it aside; `full`: it is written. Default off.
   */
  readonly preallocation?: Preallocation;
  /** The data is encrypted. Default: it is not. */
  readonly encryption?: NewLuks;
}

/** What only a qcow2 image is made with. */
export type NewQcow2Options = Omit<CreateOptions, 'sizeBytes' | 'preallocation'>;

/** CreateOptions without gaps. */
export interface NewImage extends CreateOptions {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterBytes: number;
  readonly refcountOrder: number;
  readonly extendedL2: boolean;
  readonly lazyRefcounts: boolean;
  readonly compression: 'deflate' | 'zstd';
  readonly preallocation: Preallocation;
}

const SECTOR_BYTES = 512;
const DEFAULT_CLUSTER_BITS = 16;
const V2_REFCOUNT_ORDER = 4;
const LARGEST_BYTES = Number.MAX_SAFE_INTEGER - SECTOR_BYTES;

/** Whoever opens the image must find the same name. */
const isName: Check = (value, what) => {
  const bytes = new TextEncoder().encode(String(value));
  toWhole(bytes.length, `the length of ${what} in bytes`, 1, BACKING_NAME_BYTES_MAX);
  const name = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  if (!bytes.includes(0) && name === value) return;
  throw invalid(`${what} must be Unicode without NUL, not ${show(value)}`);
};

/** A backing file: its name and format. */
const isBackingFile: Check = objectOf({ name: isName, format: isOneOf('raw', 'qcow2') }, [
  'name',
  'format',
]);

/** A backing file, or none. */
export const isBackingChoice: Check = (value, name) => {
  if (value !== 'none') isBackingFile(value, name);
};

/** A Preallocation. */
export const isPreallocation: Check = isOneOf('off', 'metadata', 'falloc', 'full');

/** Checks of NewQcow2Options. */
export const NEW_QCOW2_OPTIONS: Checks<NewQcow2Options> = {
  version: isWhole(2, 3),
  clusterBits: isWhole(CLUSTER_BITS_MIN, CLUSTER_BITS_MAX),
  refcountOrder: isWhole(0, REFCOUNT_ORDER_MAX),
  extendedL2: isSwitch,
  lazyRefcounts: isSwitch,
  compression: isOneOf('deflate', 'zstd'),
  backing: isBackingFile,
  dataFile: objectOf({ name: isName, raw: isSwitch }, ['name']),
  encryption: isNewLuks,
};

const CREATE_OPTIONS: Checks<CreateOptions> = {
  ...NEW_QCOW2_OPTIONS,
  sizeBytes: isWhole(0, LARGEST_BYTES),
  preallocation: isPreallocation,
};

/** @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT for options that no image can have */
export function newImageOf(options: CreateOptions): NewImage {
  // A NewImage may be made again.
  checkOptions(pick(options, CREATE_OPTIONS), CREATE_OPTIONS, 'a qcow2 image');
  const { version = 3, compression = 'deflate', preallocation = 'off' } = options;
  const { extendedL2 = false, lazyRefcounts = false, clusterBits = DEFAULT_CLUSTER_BITS } = options;
  const { refcountOrder = V2_REFCOUNT_ORDER } = options;
  if (extendedL2)
    toWhole(clusterBits, 'clusterBits', EXTENDED_L2_CLUSTER_BITS_MIN, CLUSTER_BITS_MAX);
  const image: NewImage = {
    ...options,
    sizeBytes: toSectors(options.sizeBytes),
    version,
    clusterBits,
    clusterBytes: 2 ** clusterBits,
    refcountOrder,
    extendedL2,
    lazyRefcounts,
    compression,
    preallocation,
  };
  checkTogether(image);
  checkMapped(image);
  return image;
}

function checkTogether(image: NewImage): void {
  const { version, refcountOrder, extendedL2, lazyRefcounts, compression, dataFile } = image;
  const isLater = extendedL2 || lazyRefcounts || compression !== 'deflate';
  if (version === 2 && (isLater || dataFile !== undefined || refcountOrder !== V2_REFCOUNT_ORDER)) {
    const later = 'extendedL2, lazyRefcounts, zstd, dataFile or another refcountOrder than 4';
    throw invalid(`version 2 of qcow2 knows no ${later}; leave them out, or use version 3`);
  }
  if (dataFile === undefined) return;
  if (dataFile.raw && image.backing !== undefined) {
    throw invalid('a raw data file holds the whole disk; there cannot be a backing file as well');
  }
}

/** What cannot be where every cluster has its place from the start. */
function checkMapped({ preallocation, backing, version, extendedL2, ...image }: NewImage): void {
  const { dataFile, encryption } = image;
  if (encryption !== undefined && dataFile?.raw === true) {
    throw invalid('a raw data file is not encrypted; leave out one of encryption and raw');
  }
  if (preallocation === 'off') return;
  if (backing !== undefined && !extendedL2) {
    const found = `preallocation ${preallocation} would hide the backing file`;
    throw invalid(`${found}; pass extendedL2 with it, or leave out one of the two`);
  }
  if (encryption === undefined || version === 3 || preallocation === 'full') return;
  const found = `preallocation ${preallocation} of an encrypted image of version 2 reads as noise`;
  throw invalid(`${found}; use version 3, or preallocation full`);
}

const isRawPreallocation = isOneOf('off', 'falloc', 'full');

/** What a raw image cannot have. @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT */
export function checkRawImage(preallocation: Preallocation, options: NewQcow2Options = {}): void {
  isRawPreallocation(preallocation, 'preallocation');
  const [first] = Object.entries(options).find(([, value]) => value !== undefined) ?? [];
  if (first !== undefined) throw invalid(`${first} is for qcow2 images, and a raw one is made`);
}
