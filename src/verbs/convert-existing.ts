/** Copies into what is there already: an image, a block device, an export of an NBD server. */
import { CRYPT_NONE } from '../abi/qcow2.ts';
import { invalid } from '../arguments.ts';
import type { CacheModeName } from '../cache-mode.ts';
import { copyDisk, type CopyOptions } from '../copy/copy.ts';
import { DiskTarget, type WrittenDisk } from '../copy/disk-target.ts';
import { openNbdTarget } from '../copy/nbd-target.ts';
import { isBlockDevice } from '../copy/new-file.ts';
import type { SourceOptions } from '../copy/open-source.ts';
import type { Source } from '../copy/source.ts';
import { Disk } from '../disk.ts';
import { openImageAt } from '../image/image-at.ts';
import { toSectors } from '../image/sectors.ts';
import { isNbdUri } from '../nbd/uri.ts';
import { openDisk } from '../open-disk.ts';
import { DEFAULT_SPARSE_BYTES, type TargetOptions } from './convert-target.ts';

/** What is written into, and how it is opened. */
export interface ExistingOptions extends SourceOptions, TargetOptions {
  readonly existing?: boolean | undefined;
  readonly targetIsZero?: boolean | undefined;
  readonly targetCache?: CacheModeName | undefined;
}

/** A block device that is to be raw is there already, and shows what it held before. */
export async function isThere(path: string, options: ExistingOptions): Promise<boolean> {
  if (options.existing === true || isNbdUri(path)) return true;
  return (options.targetFormat ?? 'raw') === 'raw' && (await isBlockDevice(path));
}

/** Copies the disk; the target keeps its size. */
export async function copyInto(
  path: string,
  source: Source,
  options: ExistingOptions,
  copying: CopyOptions,
): Promise<void> {
  const { preallocation = 'off' } = options;
  await using disk = await openExisting(path, options);
  await completeSector(disk, source.sizeBytes);
  if (disk.size < source.sizeBytes) {
    const found = `it has ${disk.size} bytes, and the source ${source.sizeBytes}`;
    throw invalid(`cannot copy into ${JSON.stringify(path)}: ${found}; resize it first`);
  }
  const wantedBytes = preallocation === 'off' ? (options.sparseBytes ?? DEFAULT_SPARSE_BYTES) : 0;
  // What is written begins at blocks.
  const sparseBytes = wantedBytes === 0 ? 0 : Math.max(wantedBytes, disk.minimumBlockBytes ?? 1);
  const target = new DiskTarget(disk, { sparseBytes, isZero: options.targetIsZero === true });
  await copyDisk(source, target, copying);
  await target.finish();
}

async function openExisting(path: string, options: ExistingOptions): Promise<WrittenDisk> {
  const { targetFormat = 'raw', targetCache = 'unsafe', signal, backing } = options;
  if (isNbdUri(path)) return openNbdTarget(path, { targetFormat, signal });
  const cache = { cache: targetCache, writable: true } as const;
  if (targetFormat === 'raw') return openDisk(path, { format: 'raw', ...cache });
  const encryption = (await isEncrypted(path)) ? options.encryption : undefined;
  return openDisk(path, { format: 'qcow2', ...cache, encryption, backing });
}

/** The last sector becomes a whole one of the file where the copy reaches into it. */
async function completeSector(disk: WrittenDisk, sourceBytes: number): Promise<void> {
  if (!(disk instanceof Disk)) return;
  const wholeBytes = toSectors(disk.size);
  if (disk.size < sourceBytes && sourceBytes <= wholeBytes) await disk.resize(wholeBytes);
}

/** The key may be the source's alone. */
async function isEncrypted(path: string): Promise<boolean> {
  await using image = await openImageAt(path, { format: 'qcow2' }, false);
  return image.header !== undefined && image.header.cryptMethod !== CRYPT_NONE;
}
