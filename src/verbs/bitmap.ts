/** Persistent bitmaps of an image: made, removed, changed. */
import {
  IMAGE_OPTIONS,
  type ImageAt,
  type ImageOptions,
  openImageAt,
  qcow2HeaderOf,
} from '../image/image-at.ts';
import type { EditOptions } from '../image/qcow2/begin-edit.ts';
import {
  addBitmap,
  clearBitmap,
  disableBitmap,
  enableBitmap,
  type NewBitmap,
  removeBitmap,
} from '../image/qcow2/bitmap-edit.ts';
import { type MergeSource, mergeBitmap } from '../image/qcow2/bitmap-merge.ts';
import type { Qcow2Header } from '../image/qcow2/header.ts';
import type { ImageFormat } from '../image/format.ts';
import {
  type Check,
  checkedInUse,
  checkOptions,
  isOneOf,
  isSwitch,
  isText,
  objectOf,
} from '../options.ts';

/** What is done to a bitmap. */
export type BitmapAction =
  | ({ readonly do: 'add' } & NewBitmap)
  | { readonly do: 'remove' | 'clear' | 'enable' | 'disable' }
  /** Sets in it what is set in another one: of this image, or of the one at `path`. */
  | {
      readonly do: 'merge';
      readonly name: string;
      readonly path?: string | undefined;
      readonly format?: ImageFormat | undefined;
    };

const isDeed = isOneOf('add', 'remove', 'clear', 'enable', 'disable', 'merge');
/** What goes with each of them. */
const isAdd = objectOf({ do: isDeed, granularityBytes: checkedInUse, enabled: isSwitch });
const isMerge = objectOf(
  { do: isDeed, name: isText, path: isText, format: isOneOf('raw', 'qcow2') },
  ['name'],
);
const isPlain = objectOf({ do: isDeed }, ['do']);

const isAction: Check = (value, name) => {
  const { do: deed } = Object(value) as { readonly do?: unknown };
  if (deed === 'add') isAdd(value, name);
  else if (deed === 'merge') isMerge(value, name);
  else isPlain(value, name);
};

/**
 * Does something to the bitmap `name`, or several things in their order: each of them is stable
 * before the next one begins, and what was done stays when a later one fails.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT when there is no such bitmap;
 *   ERR_SLUICE_UNSUPPORTED when there is one already; ERR_SLUICE_CORRUPT, ERR_SLUICE_LOCKED
 */
export async function bitmap(
  path: string,
  name: string,
  actions: BitmapAction | readonly BitmapAction[],
  options: ImageOptions = {},
): Promise<void> {
  isText(path, 'path');
  isText(name, 'name');
  checkOptions(options, IMAGE_OPTIONS, 'bitmap');
  const list = (Array.isArray(actions) ? actions : [actions]) as readonly BitmapAction[];
  for (const action of list) isAction(action, 'action');
  await using image = await openImageAt(path, options, true);
  let header = qcow2HeaderOf(image, 'bitmaps');
  for (const action of list) {
    options.signal?.throwIfAborted();
    header = await act(image, header, name, action, options);
  }
}

async function act(
  image: ImageAt,
  header: Qcow2Header,
  name: string,
  action: BitmapAction,
  options: ImageOptions,
): Promise<Qcow2Header> {
  const { file, path, backend } = image;
  const { signal } = options;
  const how: EditOptions = {
    isBlockDevice: backend.isBlockDevice,
    ...(signal === undefined ? {} : { signal }),
  };
  switch (action.do) {
    case 'add':
      return addBitmap(file, header, path, name, { ...action, ...how });
    case 'remove':
      return removeBitmap(file, header, path, name, how);
    case 'clear':
      return clearBitmap(file, header, path, name, how);
    case 'enable':
      return enableBitmap(file, header, path, name);
    case 'disable':
      return disableBitmap(file, header, path, name);
    case 'merge':
      return merge(image, header, name, action, { ...options, edit: how });
  }
}

async function merge(
  { file, path }: ImageAt,
  header: Qcow2Header,
  name: string,
  action: Extract<BitmapAction, { do: 'merge' }>,
  options: ImageOptions & { readonly edit: EditOptions },
): Promise<Qcow2Header> {
  const { path: sourcePath, format, name: from } = action;
  const apply = (source: MergeSource): Promise<Qcow2Header> =>
    mergeBitmap(file, header, path, name, source, options.edit);
  if (sourcePath === undefined) return apply({ name: from });
  await using source = await openImageAt(sourcePath, { ...options, format }, false);
  const sourceHeader = qcow2HeaderOf(source, 'bitmaps');
  const { file: sourceFile } = source;
  return await apply({
    name: from,
    image: { file: sourceFile, header: sourceHeader, path: sourcePath },
  });
}
