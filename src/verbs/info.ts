/** What there is to say of an image, in the keys of `qemu-img info --output=json`. */
import { CRYPT_AES, CRYPT_NONE } from '../abi/qcow2.ts';
import { nameBeside } from '../image/chain.ts';
import { readBitmapDirectory } from '../image/qcow2/bitmap-directory.ts';
import type { Qcow2Header } from '../image/qcow2/header.ts';
import { describeLuks } from '../image/qcow2/luks.ts';
import type { LuksInfo } from '../image/qcow2/luks-header.ts';
import { readSnapshotTable, type Snapshot } from '../image/qcow2/snapshot-table.ts';
import {
  diskBytesOf,
  IMAGE_OPTIONS,
  type ImageAt,
  type ImageOptions,
  openImageAt,
} from '../image/image-at.ts';
import { Layers, LAYERS_OPTIONS, type LayersOptions } from '../image/layers.ts';
import { openNbdSource } from '../copy/nbd-source.ts';
import { isNbdUri } from '../nbd/uri.ts';
import { checkOptions, isText } from '../options.ts';
import type { ReadOnlyDisk } from '../image/read-only-disk.ts';
import type { VmdkInfo } from '../image/vmdk/open.ts';

/** An internal snapshot. */
export interface SnapshotInfo {
  readonly id: string;
  readonly name: string;
  readonly 'vm-state-size': number;
  readonly 'date-sec': number;
  readonly 'date-nsec': number;
  readonly 'vm-clock-sec': number;
  readonly 'vm-clock-nsec': number;
  /** Instructions that the guest had executed; absent: not counted. */
  readonly icount?: number;
}

/** A persistent bitmap. */
export interface BitmapInfo {
  readonly flags: readonly ('in-use' | 'auto')[];
  readonly name: string;
  readonly granularity: number;
}

/** What only qcow2 has. */
export interface Qcow2Info {
  readonly compat: '0.10' | '1.1';
  readonly 'compression-type': 'zlib' | 'zstd';
  readonly 'lazy-refcounts'?: boolean;
  readonly bitmaps?: readonly BitmapInfo[];
  readonly 'refcount-bits': number;
  readonly 'data-file'?: string;
  readonly 'data-file-raw'?: boolean;
  readonly encrypt?: { readonly format: 'aes' } | LuksInfo;
  readonly corrupt?: boolean;
  readonly 'extended-l2'?: boolean;
}

/** An image. Keys are absent where they have no meaning. */
export interface ImageInfo {
  readonly filename: string;
  readonly format: string;
  readonly 'virtual-size': number;
  readonly 'actual-size'?: number;
  readonly 'dirty-flag'?: boolean;
  readonly encrypted?: true;
  readonly 'cluster-size'?: number;
  readonly 'backing-filename'?: string;
  readonly 'full-backing-filename'?: string;
  readonly 'backing-filename-format'?: string;
  readonly snapshots?: readonly SnapshotInfo[];
  readonly 'format-specific'?:
    | { readonly type: 'qcow2'; readonly data: Qcow2Info }
    | { readonly type: 'vmdk'; readonly data: VmdkInfo };
}

/** Says what an image is. No other file is opened. */
export async function info(path: string, options: ImageOptions = {}): Promise<ImageInfo> {
  isText(path, 'path');
  checkOptions(options, IMAGE_OPTIONS, 'info');
  if (isNbdUri(path)) return await exportInfo(path, options);
  await using image = await openImageAt(path, options, false);
  return await infoOf(image);
}

/** The same of an image and its backing files, the top one first. */
export async function chainInfo(path: string, options: LayersOptions = {}): Promise<ImageInfo[]> {
  isText(path, 'path');
  checkOptions(options, LAYERS_OPTIONS, 'chainInfo');
  if (isNbdUri(path)) return [await exportInfo(path, options)];
  await using layers = await Layers.open(path, options);
  const found: ImageInfo[] = [];
  for (const image of layers.images) found.push(await infoOf(image));
  return found;
}

/** How much room it takes, only its server knows. */
async function exportInfo(uri: string, options: LayersOptions): Promise<ImageInfo> {
  await using source = await openNbdSource(uri, options);
  return { filename: uri, format: 'raw', 'virtual-size': source.sizeBytes };
}

async function infoOf(image: ImageAt): Promise<ImageInfo> {
  const { path, format, file, header, disk } = image;
  const shared = {
    filename: image.name,
    format,
    'virtual-size': diskBytesOf(image),
    'actual-size': await image.allocatedBytes(),
    'dirty-flag': header?.dirty ?? false,
  };
  if (header === undefined) return { ...shared, ...diskInfo(disk) };
  const { snapshots } = await readSnapshotTable(file, header, path);
  return {
    ...shared,
    ...(header.cryptMethod === CRYPT_NONE ? {} : { encrypted: true }),
    'cluster-size': header.clusterBytes,
    ...backingInfo(header, image.name),
    ...(snapshots.length === 0 ? {} : { snapshots: snapshots.map(snapshotInfo) }),
    'format-specific': { type: 'qcow2', data: await qcow2Info(image, header) },
  };
}

/** What there is to say of a disk that is only read. */
function diskInfo({ clusterBytes, vmdk }: Partial<ReadOnlyDisk> = {}) {
  return {
    ...(clusterBytes === undefined ? {} : { 'cluster-size': clusterBytes }),
    ...(vmdk === undefined ? {} : { 'format-specific': { type: 'vmdk', data: vmdk } as const }),
  };
}

function backingInfo({ backing }: Qcow2Header, whose: string) {
  if (backing === undefined) return {};
  const { name, format } = backing;
  return {
    'backing-filename': name,
    'full-backing-filename': nameBeside(whose, name),
    ...(format === undefined ? {} : { 'backing-filename-format': format }),
  };
}

/** In the keys of QEMU. */
export function snapshotInfo(snapshot: Snapshot): SnapshotInfo {
  const { id, name, vmStateBytes, dateSeconds, dateNanoseconds, instructions } = snapshot;
  const clock = snapshot.vmClockNanoseconds;
  return {
    id,
    name,
    'vm-state-size': vmStateBytes,
    'date-sec': dateSeconds,
    'date-nsec': dateNanoseconds,
    'vm-clock-sec': Number(clock / NANOSECONDS),
    'vm-clock-nsec': Number(clock % NANOSECONDS),
    ...(instructions < 0n ? {} : { icount: Number(instructions) }),
  };
}

const NANOSECONDS = 1_000_000_000n;

async function qcow2Info({ file, path }: ImageAt, header: Qcow2Header): Promise<Qcow2Info> {
  const { version, compression, refcountBits, dataFile } = header;
  const isLater = version === 3;
  const bitmaps = await bitmapInfos(file, path, header);
  const encrypt = await encryptInfo(file, path, header);
  return {
    compat: isLater ? '1.1' : '0.10',
    'compression-type': compression === 'deflate' ? 'zlib' : 'zstd',
    ...(isLater ? { 'lazy-refcounts': header.lazyRefcounts } : {}),
    ...(bitmaps.length === 0 ? {} : { bitmaps }),
    'refcount-bits': refcountBits,
    ...(dataFile?.name === undefined ? {} : { 'data-file': dataFile.name }),
    ...(dataFile === undefined ? {} : { 'data-file-raw': dataFile.raw }),
    ...(encrypt === undefined ? {} : { encrypt }),
    ...(isLater ? { corrupt: header.corrupt, 'extended-l2': header.extendedL2 } : {}),
  };
}

async function bitmapInfos(
  file: ImageAt['file'],
  path: string,
  header: Qcow2Header,
): Promise<BitmapInfo[]> {
  if (header.bitmaps?.consistent !== true) return [];
  const { bitmaps } = await readBitmapDirectory(file, header, path);
  return bitmaps.map(({ name, inUse, auto, granularityBits }) => ({
    flags: [...(inUse ? ['in-use' as const] : []), ...(auto ? ['auto' as const] : [])],
    name,
    granularity: 2 ** granularityBits,
  }));
}

async function encryptInfo(file: ImageAt['file'], path: string, header: Qcow2Header) {
  const { cryptMethod, encryption } = header;
  if (cryptMethod === CRYPT_AES) return { format: 'aes' } as const;
  return encryption === undefined ? undefined : describeLuks({ file, path, area: encryption });
}
