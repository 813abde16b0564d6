/**
 * Another version, another width of refcounts, lazy refcounts, another backing file: what an image
 * is, changed while no engine has it open. What its disk reads as stays.
 *
 *     begun ─▶ version 2: the header ─▶ refcounts ─▶ zero clusters given up ─▶ the header
 *
 * A1 What is refused is refused before the first change, but for what only fails (no space).
 * A2 Each step leaves an image that is whole: the header names nothing that is not stable
 *    (rewrite-header.ts, refcount-width.ts, expand-zeroes.ts). A cut leaves what some of the steps
 *    have made of it, and leaks at worst; the same change can be asked for again.
 * A3 Version 2 does not know everything: extended L2 entries, zstd, a data file, refcounts that
 *    have not 16 bits and bitmaps are refused. Lazy refcounts are given up.
 */
import { invalid, toWhole } from '../../arguments.ts';
import type { ImageFile } from '../image-file.ts';
import {
  beginEdit,
  checkSound,
  type EditOptions,
  refusal,
  takeBackPromises,
} from './begin-edit.ts';
import { expandZeroes, refuseEncryptedZeroes } from './expand-zeroes.ts';
import type { HeaderChanges, NewBacking } from './header-content.ts';
import type { Scan } from './check-scan.ts';
import type { Qcow2Header } from './header.ts';
import { refuseNarrow, setRefcountBits } from './refcount-width.ts';
import { planHeader, rewriteHeader } from './rewrite-header.ts';
import { checkBacking } from './set-backing.ts';
import { readSnapshotTable } from './snapshot-table.ts';

/** What an image is to be; what is left out stays. */
export interface Amendment {
  readonly version?: 2 | 3;
  readonly lazyRefcounts?: boolean;
  /** A power of two, 1 to 64. */
  readonly refcountBits?: number;
  readonly backing?: NewBacking | 'none';
  /** It can only be given up: nobody knows what a data file that was not raw holds. */
  readonly dataFileRaw?: boolean;
}

const REFCOUNT_BITS: readonly number[] = [1, 2, 4, 8, 16, 32, 64];
const REFCOUNT_BITS_V2 = 16;
/** Of the extra data of a snapshot in version 3. */
const SNAPSHOT_EXTRA_BYTES_V3 = 16;

/**
 * Changes the image; answers the header as it is then, and stable.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT, ERR_SLUICE_UNSUPPORTED, ERR_SLUICE_CORRUPT,
 *   ERR_SLUICE_NO_SPACE
 */
export async function amend(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  changes: Amendment,
  options: EditOptions = {},
): Promise<Qcow2Header> {
  checkArguments(header, changes);
  refuseImpossible(header, path, changes);
  let now = await beginEdit(file, header, path, 'amend');
  await refuseOldSnapshots(file, now, path, changes);
  const wanted = headerChanges(now, changes);
  await planHeader(file, now, path, wanted);
  const scan = await scanFor(file, now, path, changes, options);
  options.signal?.throwIfAborted();
  if (now.version === 2) now = await rewriteHeader(file, now, path, wanted);
  const { refcountBits = now.refcountBits } = changes;
  if (scan !== undefined && refcountBits !== now.refcountBits) {
    now = await setRefcountBits(file, scan, path, refcountBits, options);
  }
  if (scan !== undefined && changes.version === 2) {
    now = await takeBackPromises(file, now, path);
    await expandZeroes(file, scan, path, hasBacking(now, changes), options);
  }
  options.signal?.throwIfAborted();
  return rewriteHeader(file, now, path, wanted);
}

/** A check of the image, where more than the header changes, and what it lets refuse (A1). */
async function scanFor(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  changes: Amendment,
  { signal }: EditOptions,
): Promise<Scan | undefined> {
  const { version = header.version, refcountBits = header.refcountBits } = changes;
  const isDowngrade = version < header.version;
  if (!isDowngrade && refcountBits === header.refcountBits) return undefined;
  const scan = await checkSound(file, header, path, signal);
  if (refcountBits !== header.refcountBits) refuseNarrow(scan, path, refcountBits);
  if (isDowngrade) await refuseEncryptedZeroes(file, scan, path, hasBacking(header, changes));
  return scan;
}

function hasBacking(header: Qcow2Header, { backing = 'none' }: Amendment): boolean {
  return header.backing !== undefined || backing !== 'none';
}

function checkArguments(header: Qcow2Header, changes: Amendment): void {
  const { version = header.version, refcountBits = header.refcountBits } = changes;
  toWhole(version, 'version', 2, 3);
  if (!REFCOUNT_BITS.includes(refcountBits)) {
    const rule = `refcountBits must be one of ${REFCOUNT_BITS.join(', ')}`;
    throw invalid(`${rule}, not ${refcountBits}`);
  }
  if (version === 3) return;
  if (changes.lazyRefcounts === true) {
    throw invalid('version 2 has no lazy refcounts: ask for version 3, or leave them out');
  }
  if (refcountBits !== REFCOUNT_BITS_V2) {
    const rule = `version 2 has refcounts of ${REFCOUNT_BITS_V2} bits`;
    throw invalid(`${rule}, not ${refcountBits}: ask for them too, or for version 3`);
  }
}

/** A3, and what a data file can be. */
function refuseImpossible(header: Qcow2Header, path: string, changes: Amendment): void {
  const { backing, dataFileRaw } = changes;
  const wasRaw = header.dataFile?.raw === true;
  if (dataFileRaw === true && !wasRaw) {
    const found = 'its data file is not known to be what the disk reads as';
    const advice = 'data_file_raw is for new images: convert it';
    throw refusal('ERR_SLUICE_UNSUPPORTED', 'amend', path, found, advice);
  }
  const named = backing === 'none' ? undefined : backing;
  checkBacking(header, path, named, wasRaw && dataFileRaw !== false);
  if (changes.version !== 2 || header.version === 2) return;
  const found = unknownToVersion2(header);
  if (found === undefined) return;
  const advice = 'version 2 does not know that: convert the image';
  throw refusal('ERR_SLUICE_UNSUPPORTED', 'amend', path, found, advice);
}

function unknownToVersion2(header: Qcow2Header): string | undefined {
  if (header.dataFile !== undefined) return 'it has an external data file';
  if (header.extendedL2) return 'it has extended L2 entries';
  if (header.compression === 'zstd') return 'its clusters are compressed with zstd';
  if (header.bitmaps?.consistent === true) return 'it has bitmaps, which can be removed';
  return undefined;
}

/** Version 3 asks more of a snapshot than early writers of version 2 have said. */
async function refuseOldSnapshots(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  { version = header.version, refcountBits = header.refcountBits }: Amendment,
): Promise<void> {
  const becomes3 = header.version === 2 && (version === 3 || refcountBits !== REFCOUNT_BITS_V2);
  if (!becomes3 || header.snapshots === 0) return;
  const { snapshots, problem } = await readSnapshotTable(file, header, path);
  if (problem !== undefined) {
    const advice = 'check and repair it first';
    throw refusal('ERR_SLUICE_CORRUPT', 'amend', path, problem, advice);
  }
  const old = snapshots.find(({ extraBytes }) => extraBytes < SNAPSHOT_EXTRA_BYTES_V3);
  if (old === undefined) return;
  const found = `its snapshot ${JSON.stringify(old.name)} does not say how large its disk was`;
  const advice = 'version 3 wants to know: delete the snapshot, or convert the image';
  throw refusal('ERR_SLUICE_UNSUPPORTED', 'amend', path, found, advice);
}

function headerChanges(header: Qcow2Header, changes: Amendment): HeaderChanges {
  const { version = header.version, lazyRefcounts, backing, dataFileRaw } = changes;
  return {
    version,
    ...(version === 3 && lazyRefcounts !== undefined ? { lazyRefcounts } : {}),
    ...(backing === undefined ? {} : { backing }),
    ...(dataFileRaw === false ? { dataFileRaw } : {}),
  };
}
