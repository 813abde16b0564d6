/** Bitmaps as QEMU sees them. */
import { execFileSync } from 'node:child_process';

import { qemu } from './bad-inputs/bases.ts';

/** What qemu-img says of a bitmap. */
export interface ListedBitmap {
  readonly name: string;
  readonly granularity: number;
  readonly flags: readonly string[];
}

/** The bitmaps of an image, which may be in use. */
export function listBitmaps(folder: string, image: string): readonly ListedBitmap[] {
  const info = JSON.parse(qemu(folder, 'qemu-img', ['info', '-U', '--output', 'json', image])) as {
    'format-specific': { data: { bitmaps?: ListedBitmap[] } };
  };
  return info['format-specific'].data.bitmaps ?? [];
}

/** The flags of each bitmap, by name. */
export function flagsOf(folder: string, image: string): Record<string, string> {
  const entries = listBitmaps(folder, image).map(({ name, flags }) => [name, flags.join(' ')]);
  return Object.fromEntries(entries) as Record<string, string>;
}

/** Dirty ranges of a bitmap, in bytes: what a client of an incremental backup is told. */
export function dirtyRanges(folder: string, image: string, name: string): [number, number][] {
  // nbdinfo starts the server, and waits for its end.
  const server = ['[', 'qemu-nbd', '-r', '-f', 'qcow2', '-B', name, image, ']'];
  const args = ['--json', `--map=qemu:dirty-bitmap:${name}`, '--', ...server];
  const map = execFileSync('nbdinfo', args, { cwd: folder, encoding: 'utf8' });
  const extents = JSON.parse(map) as { offset: number; length: number; type: number }[];
  return joined(extents.filter(({ type }) => type === 1));
}

/** What `dirtyRanges` says when these granules are dirty. */
export function rangesOf(
  granules: ReadonlySet<number>,
  granuleBytes: number,
  sizeBytes: number,
): [number, number][] {
  const sorted = [...granules].toSorted((a, b) => a - b);
  return joined(
    sorted.map((granule) => {
      const offset = granule * granuleBytes;
      return { offset, length: Math.min(granuleBytes, sizeBytes - offset) };
    }),
  );
}

function joined(ranges: readonly { offset: number; length: number }[]): [number, number][] {
  const result: [number, number][] = [];
  for (const { offset, length } of ranges) {
    const last = result.at(-1);
    if (last?.[1] === offset) last[1] += length;
    else result.push([offset, offset + length]);
  }
  return result;
}
