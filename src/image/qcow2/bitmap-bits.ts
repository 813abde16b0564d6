/** Bits of bitmaps, and of the map of what was written: bit 0 is the lowest of the first byte. */

/** What was written since the disk was opened: a bit for each granule of 2^`bits` bytes. */
export interface WrittenGranules {
  readonly bits: number;
  readonly map: Uint8Array;
}

/** The first run of written bytes between `from` and `to`, both in bytes of the disk. */
export function nextWritten(
  { bits, map }: WrittenGranules,
  from: number,
  to: number,
): { readonly from: number; readonly to: number } | undefined {
  const granuleBytes = 2 ** bits;
  const end = from < to ? Math.ceil(to / granuleBytes) : 0;
  const first = find(map, Math.floor(from / granuleBytes), end, 1);
  if (first >= end) return undefined;
  const last = find(map, first, end, 0);
  return {
    from: Math.max(from, first * granuleBytes),
    to: Math.min(to, last * granuleBytes),
  };
}

/** Sets the bits from `from` up to but not including `to`. */
export function setBits(bytes: Uint8Array, from: number, to: number): void {
  let at = from;
  for (; at < to && at % 8 !== 0; at++) setBit(bytes, at);
  const whole = Math.max(at, to - (to % 8));
  bytes.fill(0xff, at / 8, whole / 8);
  for (at = whole; at < to; at++) setBit(bytes, at);
}

/** Clears the bits from `from` on. */
export function clearBits(bytes: Uint8Array, from: number): void {
  const whole = Math.ceil(from / 8);
  if (from % 8 !== 0) bytes[whole - 1] = (bytes[whole - 1] ?? 0) & ((1 << (from % 8)) - 1);
  bytes.fill(0, whole);
}

/** Whether a bit is set. */
export function hasBitAt(bytes: Uint8Array, at: number): boolean {
  return find(bytes, at, at + 1, 1) === at;
}

/** Behind the run of equal bits that begins at `from`; at most `to`. */
export function runEndAt(bytes: Uint8Array, from: number, to: number): number {
  return find(bytes, from, to, hasBitAt(bytes, from) ? 0 : 1);
}

function setBit(bytes: Uint8Array, at: number): void {
  const index = Math.floor(at / 8);
  bytes[index] = (bytes[index] ?? 0) | (1 << (at % 8));
}

/** The first bit with this value, or `to`. */
function find(map: Uint8Array, from: number, to: number, value: 0 | 1): number {
  const without = value === 1 ? 0 : 0xff;
  let at = from;
  while (at < to) {
    const byte = map[at >>> 3] ?? 0;
    if (byte === without) at = (at | 7) + 1;
    else if (((byte >> (at & 7)) & 1) === value) return at;
    else at++;
  }
  return to;
}
