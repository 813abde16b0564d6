/** Formats of images, as their first bytes tell them. */
import { SluiceError } from '../errors.ts';

/** Formats that can be opened, made and written. */
export type ImageFormat = 'raw' | 'qcow2';

/** Formats that are read and never written; `vpc` is QEMU's name of VHD. */
export type ReadOnlyFormat = 'vpc' | 'vmdk';

/** Formats that can be copied, compared and told of. */
export type SourceFormat = ImageFormat | ReadOnlyFormat;

/** How images that are not raw begin. */
const MAGICS: readonly (readonly [format: string, magic: string])[] = [
  ['qcow2', 'QFI\xfb'],
  ['vmdk', 'KDMV'],
  ['vmdk', 'COWD'],
  ['vmdk', '# Disk D'],
  ['vhdx', 'vhdxfile'],
  ['vpc', 'conectix'],
  ['qed', 'QED\0'],
  ['luks', 'LUKS\xba\xbe'],
  ['vdi', '<<< '],
];
/** Bytes that tell the format. */
export const MAGIC_BYTES = 8;

/** The format of an image that begins with these bytes, if it is a known one; raw has no sign. */
export function formatOf(start: Uint8Array): string | undefined {
  const text = String.fromCharCode(...start.subarray(0, MAGIC_BYTES));
  return MAGICS.find(([, magic]) => text.startsWith(magic))?.[0];
}

/** True for a format that is read and never written. */
export function isReadOnlyFormat(format: string | undefined): format is ReadOnlyFormat {
  return format === 'vpc' || format === 'vmdk';
}

/** What to do with an image of such a format. */
export const READ_ONLY_ADVICE = 'such images are only read; convert it to qcow2 first';

/** The error for work that an image of such a format is not for. */
export function readOnlyFormat(path: string, format: ReadOnlyFormat): SluiceError {
  const message = `${JSON.stringify(path)} is a ${format} image: ${READ_ONLY_ADVICE}`;
  return new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { operation: 'open', path });
}
