/**
 * What `init` and rule T2 (assembly/request/take.ts) refuse, written from the words of the rules: a
 * second opinion for the fuzzer's host.
 */

import {
  CAPACITY_BITS,
  COMMAND_SLOTS,
  FILES,
  MAX_TRANSFER_BYTES,
  QUEUES,
} from '../../src/abi/limits.ts';
import * as region from '../../src/abi/region.ts';
import * as abi from '../../src/abi/request.ts';
import { flagsOf, type RequestFields, type Setup } from './input.ts';
import { COUNTERS, MEMORY_BYTES, REGION } from './layout.ts';

/** IOV_MAX: the longest segment table of one request. */
const SEGMENTS_MAX = 1024;
const CAPACITY_END = 2n ** BigInt(CAPACITY_BITS);
/** What `refusalOf` says when only the engine can know. */
export const UNKNOWN = 255;

const isPowerOfTwo = (value: number): boolean => value > 0 && Number.isInteger(Math.log2(value));

/** True when `init` must refuse. */
export function refusesSetup(setup: Setup): boolean {
  const { files, blockSize, chunkBytes, depth, capacity, flags } = setup;
  if (setup.misalign % 64 !== 0 || capacity >= CAPACITY_END) return true;
  if (!isPowerOfTwo(blockSize) || blockSize > 1048576) return true;
  if (depth < 1 || depth > COMMAND_SLOTS || files < 1 || files > FILES) return true;
  const chunkIsGood = isPowerOfTwo(chunkBytes) && chunkBytes >= Math.max(blockSize, 512);
  if (files > 1 && !chunkIsGood) return true;
  if ((flags & region.CONFIG_DEADLINE) === 0) return false;
  return setup.batch === 0 || setup.writesStarved === 0;
}

/** True for what changes the disk. */
export function isWriteClass(op: number): boolean {
  return op === abi.OP_WRITE || op === abi.OP_WRITE_ZEROES || op === abi.OP_DISCARD;
}

/** T2: STATUS_OK, why a request is refused, or UNKNOWN. */
export function refusalOf(setup: Setup, request: RequestFields, memory: DataView): number {
  const { op, queue } = request;
  const offered = (setup.flags & region.CONFIG_BARRIER) !== 0 ? 255 : ~abi.REQUEST_BARRIER;
  if (op > abi.OP_CLEAR_LATCH || queue >= QUEUES) return abi.STATUS_INVALID;
  if ((request.flags & ~(flagsOf(op) & offered)) !== 0) return abi.STATUS_INVALID;
  if (op === abi.OP_SET_WCE) {
    return request.length <= 1 ? abi.STATUS_OK : abi.STATUS_INVALID;
  }
  if (op >= abi.OP_FLUSH) return abi.STATUS_OK;
  const readOnly = (setup.flags & region.CONFIG_READ_ONLY) !== 0;
  if (isWriteClass(op) && readOnly) return abi.STATUS_READ_ONLY;
  // Exact enough: the capacity is below 2^53, and a sum that is rounded is above it.
  if (Number(request.offset) + Number(request.length) > setup.capacityBytes) {
    return abi.STATUS_OUT_OF_RANGE;
  }
  if (op === abi.OP_BLOCK_STATUS) {
    const tableEnd = request.data + abi.EXTENT_TABLE_ENTRIES * abi.EXTENT_SIZE;
    return tableEnd <= MEMORY_BYTES ? abi.STATUS_OK : abi.STATUS_INVALID;
  }
  return op <= abi.OP_WRITE ? refusalOfTransfer(request, memory) : abi.STATUS_OK;
}

function refusalOfTransfer({ segments, data, length }: RequestFields, memory: DataView): number {
  if (length > MAX_TRANSFER_BYTES) return abi.STATUS_INVALID;
  if (segments < 1 || segments > SEGMENTS_MAX) return abi.STATUS_INVALID;
  if (segments === 1) {
    return data + Number(length) <= MEMORY_BYTES ? abi.STATUS_OK : abi.STATUS_INVALID;
  }
  const tableEnd = data + segments * abi.SEGMENT_SIZE;
  if (tableEnd > MEMORY_BYTES) return abi.STATUS_INVALID;
  if (readsChangingMemory(segments, data)) return UNKNOWN;
  let bytes = 0;
  for (let entry = data; entry < tableEnd; entry += abi.SEGMENT_SIZE) {
    const size = memory.getUint32(entry + abi.SEGMENT_LENGTH, true);
    if (memory.getUint32(entry + abi.SEGMENT_ADDRESS, true) + size > MEMORY_BYTES) {
      return abi.STATUS_INVALID;
    }
    bytes += size;
  }
  return bytes === Number(length) ? abi.STATUS_OK : abi.STATUS_INVALID;
}

/** True for a segment table in memory that changes under the engine: its own, or the counters. */
export function readsChangingMemory(segments: number, data: number): boolean {
  const end = data + segments * abi.SEGMENT_SIZE;
  return segments > 1 && data < REGION + region.REGION_SIZE && end > COUNTERS;
}
