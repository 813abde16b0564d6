/** Numbers for people. */

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

/** `1 GiB`, `1.5 MiB`: at most three digits before the point and one after it. */
export function formatBytes(bytes: number): string {
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${Number(value.toFixed(1))} ${UNITS[unit]}`;
}

/** As qemu-img writes sizes: three significant digits, less than 1000 of a unit: `2.19 MiB`. */
export function humanSize(bytes: number): string {
  let unit = 0;
  let value = bytes;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${Number(value.toPrecision(3))} ${UNITS[unit]}`;
}

/** `950`, `12.3k`, `123k`, `1.2M`. */
export function formatCount(count: number): string {
  if (count < 999.5) return String(Math.round(count));
  if (count < 99_950) return `${(count / 1000).toFixed(1)}k`;
  if (count < 999_500) return `${(count / 1000).toFixed(0)}k`;
  return `${(count / 1e6).toFixed(1)}M`;
}
