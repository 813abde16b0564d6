/** Internal snapshots of an image: told, taken, applied and deleted. */
import { invalid, show } from '../arguments.ts';
import { IMAGE_OPTIONS, type ImageOptions, openImageAt, qcow2HeaderOf } from '../image/image-at.ts';
import type { Qcow2Header } from '../image/qcow2/header.ts';
import {
  applySnapshot as apply,
  createSnapshot as create,
  deleteSnapshot as remove,
  type SnapshotEditOptions,
} from '../image/qcow2/snapshot-edit.ts';
import { readSnapshotTable, type Snapshot } from '../image/qcow2/snapshot-table.ts';
import type { ImageFile } from '../image/image-file.ts';
import { type Check, checkOptions, type Checks, isCallback, isText } from '../options.ts';
import { snapshotInfo, type SnapshotInfo } from './info.ts';

/** How snapshots are changed. */
export interface SnapshotOptions extends ImageOptions {
  /** Told what was found and mended before. */
  readonly onNotice?: ((text: string) => unknown) | undefined;
}

/** How a snapshot is taken. */
export interface CreateSnapshotOptions extends SnapshotOptions {
  /** The time that it says; default: now. */
  readonly date?: Date | undefined;
}

const SNAPSHOT_OPTIONS: Checks<SnapshotOptions> = { ...IMAGE_OPTIONS, onNotice: isCallback };

const isDate: Check = (value, name) => {
  if (value instanceof Date && !Number.isNaN(value.getTime())) return;
  throw invalid(`${name} must be a valid Date, not ${show(value)}`);
};

const CREATE_OPTIONS: Checks<CreateSnapshotOptions> = { ...SNAPSHOT_OPTIONS, date: isDate };

/** The snapshots of an image in their order; a raw image has none. */
export async function snapshots(path: string, options: ImageOptions = {}): Promise<SnapshotInfo[]> {
  isText(path, 'path');
  checkOptions(options, IMAGE_OPTIONS, 'snapshots');
  await using image = await openImageAt(path, options, false);
  if (image.header === undefined) return [];
  const table = await readSnapshotTable(image.file, image.header, path);
  return table.snapshots.map(snapshotInfo);
}

/**
 * Takes a snapshot of the disk. Other snapshots may have its name; its id is its own.
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED for images that can have none, or no more of them
 */
export async function createSnapshot(
  path: string,
  name: string,
  options: CreateSnapshotOptions = {},
): Promise<SnapshotInfo> {
  isText(path, 'path');
  isText(name, 'name');
  checkOptions(options, CREATE_OPTIONS, 'createSnapshot');
  const { date } = options;
  return edit(path, options, (file, header, how) =>
    create(file, header, path, { ...how, name, date }),
  );
}

/**
 * Makes the disk what it was at a snapshot, which remains; what the disk was until now is lost. An
 * id counts before a name.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT when there is no such snapshot
 */
export async function applySnapshot(
  path: string,
  idOrName: string,
  options: SnapshotOptions = {},
): Promise<SnapshotInfo> {
  isText(path, 'path');
  isText(idOrName, 'idOrName');
  checkOptions(options, SNAPSHOT_OPTIONS, 'applySnapshot');
  return edit(path, options, (file, header, how) => apply(file, header, path, idOrName, how));
}

/**
 * Deletes the first snapshot with this name.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT when there is none
 */
export async function deleteSnapshot(
  path: string,
  name: string,
  options: SnapshotOptions = {},
): Promise<SnapshotInfo> {
  isText(path, 'path');
  isText(name, 'name');
  checkOptions(options, SNAPSHOT_OPTIONS, 'deleteSnapshot');
  return edit(path, options, (file, header, how) => remove(file, header, path, name, how));
}

type Edit = (file: ImageFile, header: Qcow2Header, how: SnapshotEditOptions) => Promise<Snapshot>;

async function edit(path: string, options: SnapshotOptions, work: Edit): Promise<SnapshotInfo> {
  const { signal, onNotice: notice } = options;
  await using image = await openImageAt(path, options, true);
  const header = qcow2HeaderOf(image, 'snapshots');
  const { isBlockDevice } = image.backend;
  return snapshotInfo(await work(image.file, header, { isBlockDevice, signal, notice }));
}
