// Reading: what lies where, in runs.
//
// R1  A cluster that is not allocated shows the backing disk, and behind its end zeroes. A zero
//     cluster never does.
// R2  A place behind the end of the file is an error, not zeroes: the image was cut.

import { ERRNO_EIO } from '../../../src/abi/command.ts';
import {
  FILE_BACKING,
  FILE_CIPHERED,
  FILE_DATA,
  FILE_IMAGE,
  MAP_BACKING,
  MAP_CIPHERED,
  MAP_DATA_FILE,
  MAP_EXTENDED_L2,
} from '../../../src/abi/map.ts';
import { NONE } from '../../engine.ts';
import { countContiguous, countEqual } from '../../simd/run.ts';
import {
  Extent,
  EXTENT_ERROR,
  EXTENT_HOST,
  EXTENT_MEMORY,
  EXTENT_WAIT,
  EXTENT_ZEROES,
} from '../extent.ts';
import { bufferAt, findPlain, isPlain, lendBuffer, loadPlain, noteRead } from './buffers.ts';
import {
  bitmapAt,
  entryAt,
  NORMAL,
  OFFSET_MASK,
  PACKED,
  typeOf,
  UNALLOCATED,
  wrongBitmap,
  wrongWith,
  ZERO_PLACED,
} from './entry.ts';
import { markCorrupt } from './firewall.ts';
import { hasIo } from './io.ts';
import { WAIT_ANY_BUFFER, WAIT_BUFFER, WAIT_IO } from './job.ts';
import { Qcow2, Spot } from './state.ts';
import { FOUND, locate, NO_TABLE, spotAddress, tableReach, WAITS } from './tables.ts';

/** Where the first of `length` bytes at `guest` are to be read from, for the flight `id`. */
export function planRead(map: Qcow2, extent: Extent, id: u32, guest: u64, length: u64): void {
  const found = locate(map, guest);
  if (found == FOUND) return readEntries(map, extent, id, guest, length);
  const spot = Spot.of(map);
  if (found == NO_TABLE) answerBacking(map, extent, guest, min(length, tableReach(map, guest)));
  else if (found == WAITS) answerWait(extent, spot.wait);
  else answerError(extent, spot.errno);
}

/** The file in which the data of this image lies. */
export function dataFile(map: Qcow2): u32 {
  if (map.has(MAP_DATA_FILE)) return FILE_DATA;
  return map.has(MAP_CIPHERED) ? FILE_CIPHERED : FILE_IMAGE;
}

export function answerWait(extent: Extent, reason: u32): void {
  extent.kind = EXTENT_WAIT;
  extent.wait = reason;
}

export function answerError(extent: Extent, errno: u32): void {
  extent.kind = EXTENT_ERROR;
  extent.errno = errno;
}

/** R1, for what is not allocated. */
function answerBacking(map: Qcow2, extent: Extent, guest: u64, length: u64): void {
  if (map.has(MAP_BACKING) && guest < map.backingBytes) {
    extent.kind = EXTENT_HOST;
    extent.file = FILE_BACKING;
    extent.hostOffset = guest;
    extent.length = min(length, map.backingBytes - guest);
  } else {
    extent.kind = EXTENT_ZEROES;
    extent.length = length;
  }
}

/** Reads the entries from the one found on, as far as they are of one kind and in one row. */
function readEntries(map: Qcow2, extent: Extent, id: u32, guest: u64, length: u64): void {
  const address = spotAddress(map, 0);
  const entry = entryAt(address);
  const bitmap = bitmapAt(map, address);
  const within = guest & (map.clusterBytes - 1);
  const wrong = wrongWith(map, entry, bitmap, guest - within);
  if (wrong != 0) {
    markCorrupt(map, wrong, entry, guest);
    return answerError(extent, ERRNO_EIO);
  }
  const type = typeOf(map, entry, bitmap, subclusterOf(map, within));
  if (type == PACKED) return readPacked(map, extent, id, entry, within, length);
  const bytes = runBytes(map, entry, bitmap, type, guest, length);
  if (type == UNALLOCATED) return answerBacking(map, extent, guest, bytes);
  extent.length = bytes;
  if (type != NORMAL) extent.kind = EXTENT_ZEROES;
  else answerHost(map, extent, (entry & OFFSET_MASK) + within);
}

export function subclusterOf(map: Qcow2, within: u64): u32 {
  return map.has(MAP_EXTENDED_L2) ? <u32>(within >> <u64>map.unitBits) : 0;
}

/** Data at `host`: R2. */
export function answerHost(map: Qcow2, extent: Extent, host: u64): void {
  extent.kind = EXTENT_HOST;
  extent.file = dataFile(map);
  extent.hostOffset = host;
  if (map.has(MAP_DATA_FILE)) return;
  if (host >= map.fileBytes) answerError(extent, ERRNO_EIO);
  else extent.length = min(extent.length, map.fileBytes - host);
}

/**
 * Bytes from `guest` on, `most` at most and to the slice's end, that are of one type and in one
 * row. The first entry is sound, and so are those that follow it in a row.
 */
export function runBytes(
  map: Qcow2,
  entry: u64,
  bitmap: u64,
  type: u32,
  guest: u64,
  most: u64,
): u64 {
  const within = guest & (map.clusterBytes - 1);
  const inFirst = sameInCluster(map, entry, bitmap, type, within);
  if (inFirst >= most) return most;
  if (map.has(MAP_EXTENDED_L2))
    return min(most, extendedRun(map, entry, inFirst, type, within, most));
  const clusters = (within + most + map.clusterBytes - 1) >> <u64>map.clusterBits;
  const count = min(Spot.of(map).left, <u32>min<u64>(clusters, u32.MAX_VALUE));
  const address = spotAddress(map, 0);
  const isInRow = type == NORMAL || type == ZERO_PLACED;
  const run = isInRow
    ? countContiguous(address, count, entry, map.clusterBytes)
    : countEqual(address, count);
  return min(most, ((<u64>run) << (<u64>map.clusterBits)) - within);
}

/** The same in a table with subclusters, once the first cluster's are known. */
function extendedRun(map: Qcow2, entry: u64, inFirst: u64, type: u32, within: u64, most: u64): u64 {
  const spot = Spot.of(map);
  let bytes = inFirst;
  let want = entry;
  for (let ahead: u32 = 1; ahead < spot.left && bytes < most; ahead++) {
    if (within + bytes != (<u64>ahead) << (<u64>map.clusterBits)) break;
    const address = spotAddress(map, ahead);
    const bitmap = bitmapAt(map, address);
    if (type == NORMAL || type == ZERO_PLACED) want += map.clusterBytes;
    if (entryAt(address) != want || wrongBitmap(map, want, bitmap)) break;
    if (typeOf(map, want, bitmap, 0) != type) break;
    bytes += sameInCluster(map, want, bitmap, type, 0);
  }
  return bytes;
}

/** Bytes of a cluster from `within` on that are of one type. */
function sameInCluster(map: Qcow2, entry: u64, bitmap: u64, type: u32, within: u64): u64 {
  if (!map.has(MAP_EXTENDED_L2)) return map.clusterBytes - within;
  let subcluster = subclusterOf(map, within) + 1;
  while (subcluster < 32 && typeOf(map, entry, bitmap, subcluster) == type) subcluster += 1;
  return ((<u64>subcluster) << (<u64>map.unitBits)) - within;
}

/** A compressed cluster is read as a whole, into a buffer. */
function readPacked(
  map: Qcow2,
  extent: Extent,
  id: u32,
  entry: u64,
  within: u64,
  length: u64,
): void {
  let buffer = findPlain(map, entry);
  if (buffer == NONE) {
    if (!hasIo(map)) return answerWait(extent, WAIT_IO);
    buffer = lendBuffer(map);
    if (buffer == NONE) return answerWait(extent, WAIT_ANY_BUFFER);
    loadPlain(map, buffer, entry, id);
  }
  if (!isPlain(map, buffer)) return answerWait(extent, WAIT_BUFFER | buffer);
  extent.kind = EXTENT_MEMORY;
  extent.length = min(length, map.clusterBytes - within);
  extent.head = <u32>(map.place(bufferAt(map, buffer)) + <usize>within);
  noteRead(map, buffer, id);
}
