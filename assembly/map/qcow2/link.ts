// Changes of L2 entries in memory: what a change drops, and what it must wait for in the file.

import { MAP_DATA_FILE, MAP_EXTENDED_L2 } from '../../../src/abi/map.ts';
import { clear, Slice, soilSlice } from './cache.ts';
import {
  ALL_SUBCLUSTERS,
  bitmapAt,
  COMPRESSED,
  COPIED,
  entryAt,
  OFFSET_MASK,
  packedBytes,
  packedOffset,
} from './entry.ts';
import { dropReference } from './frees.ts';
import { Job } from './job.ts';
import { Cache, Qcow2 } from './state.ts';
import { entryAddress } from './tables.ts';

/** The entries of a job whose data is written point to it (write.ts, N4). */
export function linkEntries(map: Qcow2, job: Job): void {
  const within = job.guest & (map.clusterBytes - 1);
  const start = job.guest - within;
  const host = job.host - within;
  map.changes += 1;
  for (let i: u32 = 0; i < job.clusters; i++) {
    const ahead = (<u64>i) << (<u64>map.clusterBits);
    const address = entryAddress(map, job.slot, job.index + i);
    const old = entryAt(address);
    const bitmap = bitmapAt(map, address);
    if (job.isNew != 0) dropPlace(map, old);
    if (!map.has(MAP_DATA_FILE)) clear(map, job.slot, job.index + i);
    store<u64>(address, bswap<u64>((host + ahead) | COPIED));
    if (map.has(MAP_EXTENDED_L2)) {
      const moved = i == 0 ? job.whole : i == job.clusters - 1 ? job.wholeLast : 0;
      const mask = moved != 0 ? ALL_SUBCLUSTERS : covered(map, job, start + ahead);
      store<u64>(address, bswap<u64>((bitmap & ~(mask << 32)) | mask), 8);
    }
  }
  // A cluster that was cut off by the file's end is there as far as it is written.
  if (!map.has(MAP_DATA_FILE)) map.fileBytes = max(map.fileBytes, job.host + job.length);
  noteChange(map, job.slot, job.ordered != 0 ? map.generation : 0);
}

/** The slice at `slot` has changed, and may be written once generation `need` is stable. */
export function noteChange(map: Qcow2, slot: u32, need: u64): void {
  const cache = Cache.l2(map);
  soilSlice(map, cache, slot, map.changes);
  const slice = Slice.at(map, cache, slot);
  if (need > slice.need) slice.need = need;
}

/** The entry no longer points where it did. */
export function dropPlace(map: Qcow2, old: u64): void {
  if (map.has(MAP_DATA_FILE)) return;
  if ((old & COMPRESSED) != 0) {
    const first = packedOffset(map, old) >> <u64>map.clusterBits;
    const last = (packedOffset(map, old) + packedBytes(map, old) - 1) >> <u64>map.clusterBits;
    dropReference(map, first << (<u64>map.clusterBits), <u32>(last - first + 1));
  } else if ((old & OFFSET_MASK) != 0) dropReference(map, old & OFFSET_MASK, 1);
}

/** Subclusters of the cluster at `start` that a job has written. */
function covered(map: Qcow2, job: Job, start: u64): u64 {
  const from = max(job.guest - <u64>job.headBytes, start);
  const to = min(job.guest + job.length + <u64>job.tailBytes, start + map.clusterBytes);
  const unit = (<u64>1) << (<u64>map.unitBits);
  const first = (from - start) >> <u64>map.unitBits;
  const end = (to - start + unit - 1) >> <u64>map.unitBits;
  return (((<u64>1) << (end - first)) - 1) << first;
}
