/** The requests behind a disk's calls. */
import type { RequestOptions } from './disk-types.ts';
import type { Ask } from './promised-requests.ts';

/** What read and write ask for. */
export function transfer(
  op: number,
  flags: number,
  offset: number,
  length: number,
  { signal }: RequestOptions,
): Omit<Ask, 'operation'> {
  return { op, flags, offset, length, segments: 1, bufferBytes: length, signal };
}
