/** The bitmaps of an image in the copy of its disk. */
import { SluiceError } from '../errors.ts';
import { openImageAt, type ImageOptions, qcow2HeaderOf } from '../image/image-at.ts';
import { type Bitmap, readBitmapDirectory } from '../image/qcow2/bitmap-directory.ts';
import { addBitmap } from '../image/qcow2/bitmap-edit.ts';
import { mergeBitmap } from '../image/qcow2/bitmap-merge.ts';

/** Which bitmaps are copied: all, and then none may be unusable, or those that can be used. */
export type BitmapChoice = 'all' | 'usable';

/** Where they are, and which of them are meant. */
export interface CopiedBitmaps {
  readonly path: string;
  readonly choice: BitmapChoice;
  readonly options: ImageOptions;
}

/**
 * Adds the bitmaps of one image to another one, which has none of their names and a disk of the
 * same size.
 */
export async function copyBitmaps(
  { path: fromPath, choice, options: { signal, lock } }: CopiedBitmaps,
  intoPath: string,
  how: ImageOptions,
): Promise<void> {
  await using source = await openImageAt(fromPath, { signal, lock }, false);
  const from = { file: source.file, header: qcow2HeaderOf(source, 'bitmaps'), path: fromPath };
  const bitmaps = await bitmapsOf(from, choice);
  if (bitmaps.length === 0) return;
  await using target = await openImageAt(intoPath, how, true);
  const { file } = target;
  const { isBlockDevice } = target.backend;
  let header = qcow2HeaderOf(target, 'bitmaps');
  const edit = { isBlockDevice, ...(signal === undefined ? {} : { signal }) };
  for (const { name, granularityBits, auto: enabled } of bitmaps) {
    const made = { granularityBytes: 2 ** granularityBits, enabled, ...edit };
    header = await addBitmap(file, header, intoPath, name, made);
    header = await mergeBitmap(file, header, intoPath, name, { name, image: from }, edit);
  }
}

/** Before anything is copied. @throws SluiceError ERR_SLUICE_CORRUPT, ERR_SLUICE_UNSUPPORTED */
export async function checkBitmaps(
  path: string,
  choice: BitmapChoice,
  options: ImageOptions,
): Promise<void> {
  await using source = await openImageAt(path, options, false);
  const header = qcow2HeaderOf(source, 'bitmaps');
  await bitmapsOf({ file: source.file, header, path }, choice);
}

type ReadImage = Parameters<typeof mergeBitmap>[4]['image'] & object;

async function bitmapsOf(
  { file, header, path }: ReadImage,
  choice: BitmapChoice,
): Promise<readonly Bitmap[]> {
  const { bitmaps, problem } = await readBitmapDirectory(file, header, path);
  if (problem !== undefined && bitmaps.length === 0) {
    const message = `${JSON.stringify(path)}: ${problem}; check and repair the image first`;
    throw new SluiceError('ERR_SLUICE_CORRUPT', message, { operation: 'convert', path });
  }
  const unusable = bitmaps.find((bitmap) => !isUsable(bitmap));
  if (unusable === undefined || choice === 'usable') return bitmaps.filter(isUsable);
  const reason = unusable.problem ?? 'it was not stored when the image was last in use';
  const found = `the bitmap ${JSON.stringify(unusable.name)} cannot be copied: ${reason}`;
  const message = `${JSON.stringify(path)}: ${found}; pass bitmaps: 'usable', or remove it`;
  throw new SluiceError('ERR_SLUICE_CORRUPT', message, { operation: 'convert', path });
}

function isUsable({ inUse, problem }: Bitmap): boolean {
  return !inUse && problem === undefined;
}
