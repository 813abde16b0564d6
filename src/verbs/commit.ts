/**
 * What an image has, written into a backing file below it; the image is emptied then.
 *
 *     locked ─▶ the backing file grows ─▶ data and zeroes written ─▶ stable ─▶ emptied
 *
 * M1 The disk reads the same at every moment: what is written to the backing file lies hidden below
 *    the image, which is emptied when that is stable.
 * M2 The image and those between are locked as long as it lasts, and are read without another lock.
 */
import { dirname, resolve } from 'node:path';

import { invalid } from '../arguments.ts';
import { Pace } from '../copy/pace.ts';
import type { Disk } from '../disk.ts';
import { SluiceError } from '../errors.ts';
import { type ImageAt, openImageAt, qcow2HeaderOf } from '../image/image-at.ts';
import { type LayerExtent, Layers, LAYERS_OPTIONS, type LayersOptions } from '../image/layers.ts';
import { emptyImage, makeHoles } from '../image/qcow2/empty-image.ts';
import { type EncryptionOptions, isEncryption } from '../image/qcow2/encryption.ts';
import { type Qcow2Header, readHeader } from '../image/qcow2/header.ts';
import { openDisk } from '../open-disk.ts';
import { Flights } from '../flights.ts';
import { checkOptions, type Checks, isCallback, isSwitch, isText, isWhole } from '../options.ts';
import { fileAt } from './rebase-runs.ts';

/** How far a commit is. */
export interface CommitProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** Options of `commit`; `backing` is about all files below the image. */
export interface CommitOptions extends LayersOptions {
  /** The backing file that is written, where it is not the first one; `keep` is implied. */
  readonly base?: string | undefined;
  /** Do not empty the image: it will not be used any more. Default false. */
  readonly keep?: boolean | undefined;
  /** Bytes in a second that are written at most; default: as many as can be. */
  readonly bytesPerSecond?: number | undefined;
  /** The key of encrypted images. */
  readonly encryption?: EncryptionOptions | undefined;
  /** Told, in a line each, what was found and mended before. */
  readonly onNotice?: ((text: string) => unknown) | undefined;
  readonly onProgress?: ((progress: CommitProgress) => unknown) | undefined;
}

const COMMIT_OPTIONS: Checks<CommitOptions> = {
  ...LAYERS_OPTIONS,
  base: isText,
  keep: isSwitch,
  bytesPerSecond: isWhole(1),
  encryption: isEncryption,
  onNotice: isCallback,
  onProgress: isCallback,
};

const PIECE_BYTES = 1024 * 1024;
const ZEROES_BYTES = 2 ** 30;
const FLIGHTS = 8;
const DATA: ReadonlySet<LayerExtent['kind']> = new Set(['data', 'compressed']);

/**
 * Writes what an image has into its backing file, which grows if it is shorter, and empties the
 * image. Other images over the backing file do not read as before. Stopped before its end, it has
 * changed the backing file in part, and the disk of the image reads as it did.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT when there is no such backing file;
 *   ERR_SLUICE_UNSUPPORTED for an image with snapshots, which would change; ERR_SLUICE_LOCKED ...
 */
export async function commit(path: string, options: CommitOptions = {}): Promise<void> {
  isText(path, 'path');
  checkOptions(options, COMMIT_OPTIONS, 'commit');
  const { keep = false, base, signal, onNotice: notice } = options;
  await using top = await openImageAt(path, options, true);
  const empties = !keep && base === undefined;
  refuse(path, qcow2HeaderOf(top, 'backing file'), empties);
  await commitLayers(path, options);
  if (!empties) return;
  signal?.throwIfAborted();
  const { isBlockDevice } = top.backend;
  const header = await readHeader(top.file, path);
  const how = { isBlockDevice, signal, notice };
  await makeHoles(top.backend, await emptyImage(top.file, header, path, how));
}

/** Before anything is written. */
function refuse(path: string, header: Qcow2Header, empties: boolean): void {
  const { backing, snapshots, dataFile } = header;
  if (backing === undefined) {
    throw invalid(`cannot commit ${JSON.stringify(path)}: it has no backing file`);
  }
  const found =
    snapshots > 0
      ? `its snapshots (${snapshots}) read its backing file too, and would change; delete them`
      : empties && dataFile !== undefined
        ? 'it has a data file, which cannot be emptied; pass keep: true (-d) to leave it as it is'
        : undefined;
  if (found === undefined) return;
  const message = `cannot commit ${JSON.stringify(path)}: ${found}`;
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { operation: 'commit', path });
}

/** Afterwards the backing file reads as the disk does, and that is stable. */
async function commitLayers(path: string, options: CommitOptions): Promise<void> {
  const { lock, cache, backing, encryption, signal, onNotice } = options;
  const unlocked = { format: 'qcow2', lock: 'none' } as const;
  await using layers = await Layers.open(path, { ...options, ...unlocked });
  const depth = await depthOf(layers, options.base);
  const below = layers.images[depth] as ImageAt;
  await using _locks = await lockAll(layers.images.slice(1, depth), options);
  const shared = { signal, encryption, backing };
  const { backingFormat } = options;
  await using source = await openDisk(path, { ...shared, ...unlocked, backingFormat });
  const how = { lock, cache, signal, writable: true } as const;
  await using target = await openDisk(
    below.path,
    below.format === 'raw'
      ? { ...how, format: 'raw' }
      : { ...how, ...shared, format: 'qcow2', onNotice, maxSizeBytes: source.size },
  );
  if (target.size < source.size) await target.resize(source.size);
  await copyDown(source, target, layers.extents(0, source.size, 0, depth), depth, options);
  await target.flush();
}

/** The image that is written: the first one below the top, or the one that was named. */
async function depthOf({ images }: Layers, base: string | undefined): Promise<number> {
  if (base === undefined) return 1;
  const folder = dirname(images[0]?.path ?? '');
  const names = [base, resolve(folder, base)];
  const wanted = await Promise.allSettled(names.map((name) => fileAt(name)));
  const files = await Promise.all(images.map(({ path }) => fileAt(path)));
  for (const found of wanted) {
    const depth = found.status === 'fulfilled' ? files.indexOf(found.value) : -1;
    if (depth > 0) return depth;
  }
  const there = images.slice(1).map(({ path }) => JSON.stringify(path));
  throw invalid(`${JSON.stringify(base)} is not below the image; there are ${there.join(', ')}`);
}

/** M2. */
async function lockAll(
  images: readonly ImageAt[],
  { lock, cache }: CommitOptions,
): Promise<AsyncDisposable> {
  const opened: ImageAt[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(opened.map((image) => image[Symbol.asyncDispose]()));
  };
  try {
    for (const { path, format } of images) {
      opened.push(await openImageAt(path, { format, lock, cache }, false));
    }
    return { [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function copyDown(
  source: Disk,
  target: Disk,
  extents: AsyncIterable<LayerExtent>,
  depth: number,
  { signal, bytesPerSecond, onProgress }: CommitOptions,
): Promise<void> {
  const flights = new Flights(FLIGHTS);
  const pace = bytesPerSecond === undefined ? undefined : new Pace(bytesPerSecond);
  try {
    for await (const extent of extents) {
      if (extent.depth === depth) continue;
      const isData = DATA.has(extent.kind);
      for (const { start, length } of piecesOf(extent, isData ? PIECE_BYTES : ZEROES_BYTES)) {
        signal?.throwIfAborted();
        await onProgress?.({ doneBytes: start, totalBytes: source.size });
        if (isData) await pace?.take(length, signal);
        await flights.add(async () => {
          if (isData) await target.write(start, await source.read(start, length));
          else await target.writeZeroes(start, length, { mayUnmap: true });
        });
      }
    }
  } finally {
    await flights.landed();
  }
  await onProgress?.({ doneBytes: source.size, totalBytes: source.size });
}

function* piecesOf({ start, length }: LayerExtent, most: number) {
  const end = start + length;
  for (let at = start; at < end;) {
    const border = Math.min(end, (Math.floor(at / most) + 1) * most);
    yield { start: at, length: border - at };
    at = border;
  }
}
