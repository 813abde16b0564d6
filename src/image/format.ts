/** Formats of images, as their first bytes tell them. */

/** Formats that can be opened. */
export type ImageFormat = 'raw' | 'qcow2';

/** How images that are not raw begin. */
const MAGICS: readonly (readonly [format: string, magic: string])[] = [
  ['qcow2', 'QFI\xfb'],
  ['vmdk', 'KDMV'],
  ['vmdk', '# Disk D'],
  ['vhdx', 'vhdxfile'],
  ['vhd', 'conectix'],
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
