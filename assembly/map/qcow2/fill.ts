// What a job must write around its data (write.ts, N3), read into its buffers: each byte stands in
// the buffer where it stands in its cluster.

import { COMMAND_READ, ERRNO_EIO } from '../../../src/abi/command.ts';
import { FILE_BACKING, FILE_COMPRESSED, MAP_BACKING, MAP_DATA_FILE } from '../../../src/abi/map.ts';
import { bufferAt } from './buffers.ts';
import {
  bitmapAt,
  entryAt,
  NORMAL,
  OFFSET_MASK,
  packedBytes,
  packedOffset,
  PACKED,
  typeOf,
  UNALLOCATED,
} from './entry.ts';
import { hasIo, IO_FILL, order } from './io.ts';
import { Job, WAIT_FILL, wake } from './job.ts';
import { dataFile, subclusterOf } from './read.ts';
import { Qcow2 } from './state.ts';
import { entryAddress } from './tables.ts';
import { VERIFY, verify } from '../../verify.ts';

/** Goes on reading; true when all is there, false when an answer is awaited first. */
export function fill(map: Qcow2, id: u32): bool {
  const job = Job.at(map, id);
  if (VERIFY) verify(job.fillPending == 0);
  const dataEnd = job.guest + job.length;
  const end = dataEnd + <u64>job.tailBytes;
  while (true) {
    if (job.fillAt >= job.guest && job.fillAt < dataEnd) job.fillAt = dataEnd;
    if (job.fillAt >= end) return true;
    const stop = job.fillAt < job.guest ? job.guest : end;
    if (!fillSome(map, id, job, stop)) return false;
  }
}

/** The host has answered a read for a job. */
export function fillAnswered(map: Qcow2, id: u32, errno: u32): void {
  Job.at(map, id).fillPending = 0;
  wake(map, WAIT_FILL | id, errno);
}

/** Gets the bytes from `fillAt` on, to `stop` at most; false when they must be awaited. */
function fillSome(map: Qcow2, id: u32, job: Job, stop: u64): bool {
  const cluster = map.clusterBytes;
  const within = job.fillAt & (cluster - 1);
  const ahead = <u32>((job.fillAt >> <u64>map.clusterBits) - (job.guest >> <u64>map.clusterBits));
  const address = entryAddress(map, job.slot, job.index + ahead);
  const entry = entryAt(address);
  const bitmap = bitmapAt(map, address);
  const type = typeOf(map, entry, bitmap, subclusterOf(map, within));
  const buffer = bufferAt(map, ahead == 0 ? job.headBuffer : job.tailBuffer);
  const at = buffer + <u32>within;
  let bytes = stop - job.fillAt;
  if (type == PACKED) {
    if (!hasIo(map)) return false;
    // All of the cluster comes: head and tail, when both are in it.
    job.fillAt = ahead == 0 && job.clusters == 1 ? u64.MAX_VALUE : stop;
    const offset = packedOffset(map, entry);
    return read(map, id, FILE_COMPRESSED, offset, packedBytes(map, entry), buffer);
  }
  const unit = (<u64>1) << (<u64>map.unitBits);
  bytes = min(bytes, unit - (job.fillAt & (unit - 1)));
  if (type == NORMAL) {
    if (!hasIo(map)) return false;
    const offset = (entry & OFFSET_MASK) + within;
    if (!map.has(MAP_DATA_FILE) && offset + bytes > map.fileBytes) {
      job.errno = ERRNO_EIO;
      return false;
    }
    job.fillAt += bytes;
    return read(map, id, dataFile(map), offset, bytes, at);
  }
  if (type == UNALLOCATED && map.has(MAP_BACKING) && job.fillAt < map.backingBytes) {
    if (!hasIo(map)) return false;
    bytes = min(bytes, map.backingBytes - job.fillAt);
    const offset = job.fillAt;
    job.fillAt += bytes;
    return read(map, id, FILE_BACKING, offset, bytes, at);
  }
  memory.fill(map.place(at), 0, <usize>bytes);
  job.fillAt += bytes;
  return true;
}

function read(map: Qcow2, id: u32, file: u32, offset: u64, bytes: u64, at: u32): bool {
  Job.at(map, id).fillPending = 1;
  order(map, COMMAND_READ, file, offset, bytes, at, IO_FILL, id);
  return false;
}
