/** Long runs of bytes, compared many at once: a call for each byte takes most of a test's time. */

/** Where the first byte lies that is not `value`; -1 when all of them are. */
export function firstOther(bytes: Uint8Array, value: number): number {
  // Bytes that are all like the one before them are all like the first.
  const isSame = Buffer.compare(bytes.subarray(1), bytes.subarray(0, -1)) === 0;
  if (isSame && (bytes.length === 0 || bytes[0] === value)) return -1;
  return bytes.findIndex((byte) => byte !== value);
}
