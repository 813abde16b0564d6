/** The result table of BLOCK_STATUS as extents of a disk. */
import {
  EXTENT_ABSENT,
  EXTENT_COMPRESSED,
  EXTENT_DEPTH,
  EXTENT_FLAGS,
  EXTENT_HOLE,
  EXTENT_LENGTH,
  EXTENT_SIZE,
  EXTENT_ZERO,
} from './abi/request.ts';
import type { DiskExtent } from './disk-types.ts';

/** The `count` extents at `address`, of which the first begins at `offset` on the disk. */
export function extentsAt(
  bytes: Uint8Array,
  address: number,
  count: number,
  offset: number,
): DiskExtent[] {
  const view = new DataView(bytes.buffer, address, count * EXTENT_SIZE);
  const extents: DiskExtent[] = [];
  let at = offset;
  for (let entry = 0; entry < view.byteLength; entry += EXTENT_SIZE) {
    const length = Number(view.getBigUint64(entry + EXTENT_LENGTH, true));
    const flags = view.getUint32(entry + EXTENT_FLAGS, true);
    const depth = view.getUint32(entry + EXTENT_DEPTH, true);
    const compressed = (flags & EXTENT_COMPRESSED) !== 0;
    const present = (flags & EXTENT_ABSENT) === 0;
    extents.push({ offset: at, length, kind: kindOf(flags), depth, present, compressed });
    at += length;
  }
  return extents;
}

function kindOf(flags: number): DiskExtent['kind'] {
  if ((flags & EXTENT_HOLE) !== 0) return 'hole';
  return (flags & EXTENT_ZERO) !== 0 ? 'zero' : 'data';
}
