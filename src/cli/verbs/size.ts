/** Sizes as qemu-img takes them. */
import { InvalidArgumentError } from 'commander';

const UNITS = 'KMGTPE';

/** `512`, `64k`, `1.5G`, `0x200`: the suffixes are powers of 1024; undefined: it is no size. */
export function parseSize(text: string): number | undefined {
  const hexadecimal = /^0x[\da-f]+$/i.test(text);
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)([bkmgtpe]?)$/i.exec(text) ?? [];
  if (digits === undefined && !hexadecimal) return undefined;
  const power = UNITS.indexOf(unit.toUpperCase()) + 1;
  const factor = unit === '' || unit.toUpperCase() === 'B' ? 1 : 1024 ** power;
  const bytes = hexadecimal ? Number(text) : Number(digits) * factor;
  // As with qemu-img there are no parts of a byte, but parts of a KiB are rounded.
  if (factor === 1 && !Number.isInteger(bytes)) return undefined;
  return Number.isSafeInteger(Math.round(bytes)) ? Math.round(bytes) : undefined;
}

/** For commander. */
export function sizeArgument(text: string): number {
  const bytes = parseSize(text);
  if (bytes !== undefined) return bytes;
  throw new InvalidArgumentError('It must be a size in bytes, as 4096, 64k, 1.5G.');
}
