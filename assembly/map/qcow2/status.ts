// Block status: what lies where, as entries of a result table (src/abi/request.ts).

import {
  EXTENT_ABSENT,
  EXTENT_COMPRESSED,
  EXTENT_DEPTH,
  EXTENT_FLAGS,
  EXTENT_HOLE,
  EXTENT_LENGTH,
  EXTENT_SIZE,
  EXTENT_TABLE_ENTRIES,
  EXTENT_ZERO,
} from '../../../src/abi/request.ts';
import { ERRNO_EIO } from '../../../src/abi/command.ts';
import { FILE_BACKING, MAP_BACKING } from '../../../src/abi/map.ts';
import { Extent, EXTENT_HOST, EXTENT_NOTHING } from '../extent.ts';
import {
  bitmapAt,
  entryAt,
  NORMAL,
  PACKED,
  typeOf,
  UNALLOCATED,
  wrongWith,
  ZERO_PLAIN,
} from './entry.ts';
import { markCorrupt } from './firewall.ts';
import { answerError, answerWait, runBytes, subclusterOf } from './read.ts';
import { Qcow2, Spot } from './state.ts';
import { FOUND, locate, NO_TABLE, spotAddress, tableReach, WAITS } from './tables.ts';

/** The entries of a table come from the backing disk: one deeper. */
export function deepen(table: usize, entries: u32): void {
  for (let i: u32 = 0; i < entries; i++) {
    const depth = table + <usize>i * EXTENT_SIZE;
    store<u32>(depth, load<u32>(depth, EXTENT_DEPTH) + 1, EXTENT_DEPTH);
  }
}

/** Flags that no entry has. */
const ASK_BACKING: u64 = (<u64>0xffff_ffff) << 32;
/** Zeroes behind the end of a backing disk: the first that has no bytes there says so. */
const BEHIND_BACKING: u64 = ((<u64>1) << 32) | (<u64>EXTENT_ZERO | <u64>EXTENT_HOLE);

/**
 * Fills the table at `table` from `guest` on, as far as one call can say, and answers
 * EXTENT_NOTHING; or says that the backing disk is to be asked.
 */
export function planStatus(
  map: Qcow2,
  extent: Extent,
  guest: u64,
  length: u64,
  table: usize,
): void {
  let entries: u32 = 0;
  let before: u64 = ASK_BACKING;
  let done: u64 = 0;
  while (done < length) {
    const found = locate(map, guest + done);
    if (found != FOUND && found != NO_TABLE && done == 0) return answerNotKnown(map, extent, found);
    if (found != FOUND && found != NO_TABLE) break;
    const at = guest + done;
    const left = length - done;
    const bytes = found == FOUND ? sameBytes(map, at, left) : min(left, tableReach(map, at));
    const flags = found == FOUND ? flagsAt(map, at) : flagsOf(map, UNALLOCATED, at);
    if (bytes == 0 && done == 0) return answerError(extent, ERRNO_EIO);
    if (flags == ASK_BACKING && done == 0) return askBacking(map, extent, guest, bytes);
    if (bytes == 0 || flags == ASK_BACKING) break;
    if (flags == before) {
      const last = table + <usize>(entries - 1) * EXTENT_SIZE;
      store<u64>(last, load<u64>(last, EXTENT_LENGTH) + bytes, EXTENT_LENGTH);
    } else if (entries == <u32>EXTENT_TABLE_ENTRIES) break;
    else {
      const next = table + <usize>entries * EXTENT_SIZE;
      store<u64>(next, bytes, EXTENT_LENGTH);
      store<u64>(next, flags, EXTENT_FLAGS);
      entries += 1;
    }
    before = flags;
    done += bytes;
  }
  extent.kind = EXTENT_NOTHING;
  extent.length = done;
  extent.value = entries;
}

function answerNotKnown(map: Qcow2, extent: Extent, found: u32): void {
  if (found == WAITS) answerWait(extent, Spot.of(map).wait);
  else answerError(extent, Spot.of(map).errno);
}

function askBacking(map: Qcow2, extent: Extent, guest: u64, bytes: u64): void {
  extent.kind = EXTENT_HOST;
  extent.file = FILE_BACKING;
  extent.hostOffset = guest;
  extent.length = min(bytes, map.backingBytes - guest);
}

/** Bytes from `guest` on of one type; 0 when the entry cannot be. */
function sameBytes(map: Qcow2, guest: u64, most: u64): u64 {
  const address = spotAddress(map, 0);
  const entry = entryAt(address);
  const bitmap = bitmapAt(map, address);
  const within = guest & (map.clusterBytes - 1);
  const wrong = wrongWith(map, entry, bitmap, guest - within);
  if (wrong != 0) {
    markCorrupt(map, wrong, entry, guest);
    return 0;
  }
  const type = typeOf(map, entry, bitmap, subclusterOf(map, within));
  const bytes = runBytes(map, entry, bitmap, type, guest, most);
  // What the backing disk shows ends where that does.
  const shows = type == UNALLOCATED && map.has(MAP_BACKING) && guest < map.backingBytes;
  return shows ? min(bytes, map.backingBytes - guest) : bytes;
}

/** What an entry says at EXTENT_FLAGS: flags, and the depth behind them. */
function flagsAt(map: Qcow2, guest: u64): u64 {
  const address = spotAddress(map, 0);
  const within = guest & (map.clusterBytes - 1);
  const type = typeOf(map, entryAt(address), bitmapAt(map, address), subclusterOf(map, within));
  return flagsOf(map, type, guest);
}

function flagsOf(map: Qcow2, type: u32, guest: u64): u64 {
  if (type == NORMAL) return 0;
  if (type == PACKED) return EXTENT_COMPRESSED;
  if (type == ZERO_PLAIN) return EXTENT_ZERO | EXTENT_HOLE;
  if (type != UNALLOCATED) return EXTENT_ZERO;
  if (!map.has(MAP_BACKING)) return EXTENT_ZERO | EXTENT_HOLE | EXTENT_ABSENT;
  return guest < map.backingBytes ? ASK_BACKING : BEHIND_BACKING;
}
