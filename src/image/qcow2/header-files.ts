/** The other files of an image, its encryption and its bitmaps, as far as the header names them. */
import {
  AUTOCLEAR_BITMAPS_BIT,
  AUTOCLEAR_RAW_DATA_FILE_BIT,
  BACKING_NAME_BYTES_MAX,
  CRYPT_LUKS,
  CRYPT_NONE,
  HEADER_AUTOCLEAR_FEATURES,
  HEADER_BACKING_FILE_OFFSET,
  HEADER_BACKING_FILE_SIZE,
  HEADER_CRYPT_METHOD,
  HEADER_NB_SNAPSHOTS,
  INCOMPATIBLE_DATA_FILE_BIT,
} from '../../abi/qcow2.ts';
import { hasBit } from './fields.ts';
import {
  backingFormat,
  type BitmapsExtension,
  bitmapsExtension,
  dataFileName,
  type EncryptionExtension,
  encryptionExtension,
  hasBitmaps,
} from './header-extensions.ts';
import type { HeaderFeatures } from './header-features.ts';
import type { HeaderStart } from './header-start.ts';

/** The parts of Qcow2Header that extensions and the backing name decide. */
export interface HeaderFiles {
  /** CRYPT_NONE, CRYPT_AES or CRYPT_LUKS. */
  readonly cryptMethod: number;
  readonly encryption?: EncryptionExtension;
  readonly backing?: { readonly name: string; readonly format?: string };
  /** Guest data lies in another file; `raw`: as a raw image. */
  readonly dataFile?: { readonly name?: string; readonly raw: boolean };
  /**
   * Not `consistent`: somebody who does not know bitmaps has written, so all of them are void, and
   * what the extension says is not looked at: its numbers are 0 here.
   */
  readonly bitmaps?: BitmapsExtension & { readonly consistent: boolean };
}

/** All of them; none is opened, and none of the names is judged but as a text. */
export function filesOf(start: HeaderStart, features: HeaderFeatures): HeaderFiles {
  const backing = backingOf(start);
  const dataFile = dataFileOf(start, features, backing !== undefined);
  const bitmaps = bitmapsOf(start, features);
  return {
    ...cryptOf(start),
    ...(backing === undefined ? {} : { backing }),
    ...(dataFile === undefined ? {} : { dataFile }),
    ...(bitmaps === undefined ? {} : { bitmaps }),
  };
}

function dataFileOf(
  { header, extensions }: HeaderStart,
  { incompatible, autoclear }: HeaderFeatures,
  hasBacking: boolean,
) {
  const hasDataFile = hasBit(incompatible, INCOMPATIBLE_DATA_FILE_BIT);
  const raw = hasBit(autoclear, AUTOCLEAR_RAW_DATA_FILE_BIT);
  if (raw && (!hasDataFile || hasBacking)) {
    const reason = hasDataFile ? 'there is a backing file' : 'there is no external data file';
    const found = `the data file is said to be raw, but ${reason}`;
    throw header.refusal(HEADER_AUTOCLEAR_FEATURES, found);
  }
  if (!hasDataFile) return undefined;
  if (header.u32(HEADER_NB_SNAPSHOTS) !== 0) {
    const found = 'there are internal snapshots beside an external data file';
    throw header.refusal(HEADER_NB_SNAPSHOTS, found);
  }
  const name = dataFileName(header, extensions);
  return name === undefined ? { raw } : { name, raw };
}

function bitmapsOf(
  { header, extensions, clusterBytes }: HeaderStart,
  { autoclear }: HeaderFeatures,
) {
  const consistent = hasBit(autoclear, AUTOCLEAR_BITMAPS_BIT);
  if (consistent) {
    const bitmaps = bitmapsExtension(header, extensions, clusterBytes);
    if (bitmaps !== undefined) return { ...bitmaps, consistent };
    const found = 'the bitmaps are said to be consistent, but the image has none';
    throw header.refusal(HEADER_AUTOCLEAR_FEATURES, found);
  }
  if (!hasBitmaps(extensions)) return undefined;
  return { count: 0, directoryOffset: 0, directoryBytes: 0, consistent };
}

function cryptOf({ header, extensions, clusterBytes }: HeaderStart) {
  const cryptMethod = header.u32(HEADER_CRYPT_METHOD);
  if (cryptMethod > CRYPT_LUKS) {
    const found = `encryption method ${cryptMethod}; this release knows 0, 1 (AES) and 2 (LUKS)`;
    throw header.refusal(HEADER_CRYPT_METHOD, found, 'ERR_SLUICE_UNSUPPORTED');
  }
  const encryption = encryptionExtension(header, extensions, clusterBytes);
  if ((encryption !== undefined) === (cryptMethod === CRYPT_LUKS)) {
    return { cryptMethod, ...(encryption === undefined ? {} : { encryption }) };
  }
  const name = cryptMethod === CRYPT_NONE ? 'no encryption' : `encryption method ${cryptMethod}`;
  const found = `${name}, ${encryption === undefined ? 'without' : 'with'} a LUKS header`;
  throw header.refusal(HEADER_CRYPT_METHOD, found);
}

function backingOf({ header, extensions }: HeaderStart) {
  const offset = Number(header.u64(HEADER_BACKING_FILE_OFFSET));
  const length = header.u32(HEADER_BACKING_FILE_SIZE);
  const format = backingFormat(header, extensions);
  if (offset === 0 || length === 0) return undefined;
  if (length > Math.min(BACKING_NAME_BYTES_MAX, header.bytes.length - offset)) {
    const rule = `at most ${BACKING_NAME_BYTES_MAX}, and it must end in the first cluster`;
    const found = `the backing file's name has ${length} bytes; ${rule}`;
    throw header.refusal(HEADER_BACKING_FILE_SIZE, found);
  }
  const name = header.text(offset, length, "the backing file's name");
  return format === undefined ? { name } : { name, format };
}
