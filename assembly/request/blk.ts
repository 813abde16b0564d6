// virtio-blk requests: what a chain asks for becomes requests of the engine. VIRTIO 1.3, 5.2.6.
//
// V1  The header is copied once, before anything is decided. How header, data and status are cut
//     into buffers means nothing but that readable comes before writable; only legacy drivers
//     without ANY_LAYOUT have a fixed framing (5.2.6.4).
// V2  The status is the last writable byte. A chain without one is returned with nothing written. A
//     chain without a whole header fails.
// V3  A read-only disk fails what would change it, before anything else is looked at (5.2.6.2).
// V4  What is unknown, or was not negotiated, is unsupported.
// V5  Data is whole blocks, at a whole block, in the direction of its operation. Ranges and lengths
//     past the end are the engine's to refuse (take.ts, T2); sectors whose byte offset has more
//     than 64 bits are refused here.
// V6  The legacy barrier bit is a fence when it was negotiated, and else ignored.

import {
  DEVICE_BARRIER,
  DEVICE_DISCARD,
  DEVICE_FIXED_FRAMING,
  DEVICE_WRITE_ZEROES,
  TAG_CHAIN,
} from '../../src/abi/virtio-device.ts';
import {
  BLK_HEADER_SECTOR,
  BLK_HEADER_SIZE,
  BLK_HEADER_TYPE,
  VIRTIO_BLK_ID_BYTES,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_BARRIER,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_FLUSH_OUT,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_SECURE_ERASE,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from '../../src/abi/virtio-blk.ts';
import { DEVICE_ID } from '../../src/abi/virtio-device.ts';
import { SECTOR_SIZE } from '../../src/abi/limits.ts';
import { CONFIG_READ_ONLY, REGION_SIZE } from '../../src/abi/region.ts';
import {
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  REQUEST_BARRIER,
  REQUEST_MAY_UNMAP,
  SEGMENT_ADDRESS,
  SEGMENT_LENGTH,
  SEGMENT_SIZE,
} from '../../src/abi/request.ts';
import { Device } from '../device.ts';
import { Engine } from '../engine.ts';
import { NOWHERE } from '../guest.ts';
import { Chain, Walk } from '../ring/record.ts';
import { appendRequest } from './append.ts';
import { copyOut, copyReadable, skipHeader } from './blk-data.ts';
import { parseRanges, Range, rangesOf } from './blk-ranges.ts';

/** Sectors from here on have a byte offset of more than 64 bits. */
const SECTOR_BITS: u64 = 55;

/**
 * Turns the chain `index`, which has just been walked, into requests of the engine. A chain that
 * has none is decided at once: its `status` and `written` stand.
 */
export function submitChain(engine: usize, index: u32): void {
  const device = engine + REGION_SIZE;
  const walk = Walk.of(device);
  const chain = Chain.at(device, index);
  if (!parseChain(device, walk, chain)) return;
  if (walk.type <= <u32>VIRTIO_BLK_T_OUT) submitTransfer(engine, index, 0);
  else submitOther(engine, index);
}

/**
 * Finds status, header and data of the chain that has just been walked; false when it is decided
 * already. Of a transfer the data is known then: `walk.data` bytes in `walk.dataSegments` segments
 * from the chain's `first` on. What IN and OUT differ in is chosen without branches, as guests mix
 * them at will.
 */
export function parseChain(device: usize, walk: Walk, chain: Chain): bool {
  const last = <usize>walk.end - SEGMENT_SIZE;
  if (walk.total == walk.readable) {
    chain.statusPlace = <u32>NOWHERE; // V2
    chain.usedLength = 0;
    return false;
  }
  const lastLength = load<u32>(last, SEGMENT_LENGTH);
  chain.statusPlace = load<u32>(last, SEGMENT_ADDRESS) + lastLength - 1;
  chain.padding = 0;
  walk.total -= 1;
  if (lastLength == 1) walk.end = <u32>last;
  else store<u32>(last, lastLength - 1, SEGMENT_LENGTH);
  if (!readHeader(device, walk, lastLength)) {
    chain.status = VIRTIO_BLK_S_IOERR;
    return false;
  }
  const type = walk.type & ~VIRTIO_BLK_T_BARRIER;
  if (lastLength != 1 && type != VIRTIO_BLK_T_GET_ID) widenStatus(walk, chain, lastLength);
  const isOut: bool = (type & 1) != 0;
  const out = walk.readable - BLK_HEADER_SIZE;
  const into = walk.total - walk.readable;
  let skipped: u32 = 1;
  if (load<u32>(walk.list, SEGMENT_LENGTH) != BLK_HEADER_SIZE && isOut) skipped = skipHeader(walk);
  walk.data = select<u64>(out, into, isOut);
  walk.stray = select<u64>(into, out, isOut);
  chain.first = select<u32>(skipped, walk.readableSegments, isOut);
  const first = walk.list + chain.first * SEGMENT_SIZE;
  walk.dataSegments = (walk.end - first) / SEGMENT_SIZE;
  return true;
}

/**
 * A last buffer of `length` bytes with more than the status byte has data too. But where the data
 * would not be whole sectors then, and is without it, all of it is status area: zeroes, and the
 * status in its last byte. The data of GET_ID is never whole sectors.
 */
function widenStatus(walk: Walk, chain: Chain, length: u32): void {
  const data = walk.total - walk.readable;
  const before = data + 1 - <u64>length;
  if (length >= <u32>SECTOR_SIZE || data % SECTOR_SIZE == 0 || before % SECTOR_SIZE != 0) return;
  // Of a buffer that regions have cut, `length` is what the last of them holds.
  if (walk.cutEnd == walk.end) return;
  chain.padding = length - 1;
  walk.total -= <u64>chain.padding;
  walk.end -= SEGMENT_SIZE;
}

/** Copies the header (V1); false when it is not whole, or the framing not as it has to be. */
function readHeader(device: usize, walk: Walk, lastLength: u32): bool {
  if (walk.readable < <u64>BLK_HEADER_SIZE) return false;
  const first = <usize>walk.list;
  const length = load<u32>(first, SEGMENT_LENGTH);
  if (changetype<Device>(device).has(DEVICE_FIXED_FRAMING)) {
    if (length != BLK_HEADER_SIZE || lastLength != 1) return false;
  }
  if (length < <u32>BLK_HEADER_SIZE) {
    copyReadable(walk, 0, changetype<usize>(walk) + offsetof<Walk>('type'), BLK_HEADER_SIZE);
    return true;
  }
  const header = <usize>load<u32>(first, SEGMENT_ADDRESS);
  walk.type = load<u32>(header, BLK_HEADER_TYPE);
  walk.sector = load<u64>(header, BLK_HEADER_SECTOR);
  return true;
}

/** IN and OUT. */
function submitTransfer(engine: usize, index: u32, flags: i32): void {
  const device = engine + REGION_SIZE;
  const walk = Walk.of(device);
  const chain = Chain.at(device, index);
  if (walk.stray != 0 || !isWhole(device, walk.sector, walk.data)) {
    chain.status = VIRTIO_BLK_S_IOERR;
    return;
  }
  const isOut: bool = (walk.type & 1) != 0;
  chain.written = select<u32>(0, <u32>walk.data, isOut);
  const first = <usize>walk.list + <usize>chain.first * SEGMENT_SIZE;
  const segments = walk.dataSegments;
  const op = select<i32>(OP_WRITE, OP_READ, isOut);
  // A request without data names one segment of no bytes.
  const place = segments == 1 ? load<u32>(first, SEGMENT_ADDRESS) : <u32>first;
  const offset = walk.sector * SECTOR_SIZE;
  append(engine, index, op, flags, max(segments, 1), place, offset, walk.data);
}

/** Whatever is not plainly IN or OUT. */
function submitOther(engine: usize, index: u32): void {
  const device = Device.of(engine);
  const walk = Walk.of(changetype<usize>(device));
  const chain = Chain.at(changetype<usize>(device), index);
  const barrier = (walk.type & VIRTIO_BLK_T_BARRIER) != 0 && device.has(DEVICE_BARRIER);
  const flags = barrier ? REQUEST_BARRIER : 0;
  const type = walk.type & ~VIRTIO_BLK_T_BARRIER;
  if (isReadOnly(engine) && changesDisk(type)) chain.status = VIRTIO_BLK_S_IOERR;
  else dispatch(engine, index, type, flags);
}

/** Does what the header says. */
function dispatch(engine: usize, index: u32, type: u32, flags: i32): void {
  const device = Device.of(engine);
  const chain = Chain.at(changetype<usize>(device), index);
  switch (type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
      submitTransfer(engine, index, flags);
      break;
    case VIRTIO_BLK_T_FLUSH:
    case VIRTIO_BLK_T_FLUSH_OUT:
      append(engine, index, OP_FLUSH, flags, 0, 0, 0, 0);
      break;
    case VIRTIO_BLK_T_GET_ID:
      answerId(changetype<usize>(device), chain);
      break;
    case VIRTIO_BLK_T_DISCARD:
      if (device.has(DEVICE_DISCARD)) submitRanges(engine, index, OP_DISCARD, flags);
      else chain.status = VIRTIO_BLK_S_UNSUPP;
      break;
    case VIRTIO_BLK_T_WRITE_ZEROES:
      if (device.has(DEVICE_WRITE_ZEROES)) submitRanges(engine, index, OP_WRITE_ZEROES, flags);
      else chain.status = VIRTIO_BLK_S_UNSUPP;
      break;
    default:
      chain.status = VIRTIO_BLK_S_UNSUPP; // V4
  }
}

function isReadOnly(engine: usize): bool {
  return changetype<Engine>(engine).has(CONFIG_READ_ONLY);
}

function changesDisk(type: u32): bool {
  switch (type) {
    case VIRTIO_BLK_T_OUT:
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
    case VIRTIO_BLK_T_SECURE_ERASE:
      return true;
    default:
      return false;
  }
}

/** V5. */
function isWhole(device: usize, sector: u64, length: u64): bool {
  // A power of two.
  const blockSectors = <u64>changetype<Device>(device).blockSectors;
  if (sector >> SECTOR_BITS != 0 || (sector & (blockSectors - 1)) != 0) return false;
  return (length & (blockSectors * SECTOR_SIZE - 1)) == 0;
}

/** 5.2.6: the id is 20 bytes; a shorter buffer gets the first of them. */
function answerId(device: usize, chain: Chain): void {
  const walk = Walk.of(device);
  const length = <u32>min(walk.total - walk.readable, <u64>VIRTIO_BLK_ID_BYTES);
  chain.first = walk.readableSegments;
  chain.written = length;
  copyOut(walk, device + DEVICE_ID, length);
}

/** DISCARD and WRITE_ZEROES: all ranges are checked before the first is begun (5.2.6.2). */
function submitRanges(engine: usize, index: u32, op: i32, flags: i32): void {
  const device = changetype<usize>(Device.of(engine));
  const chain = Chain.at(device, index);
  chain.status = parseRanges(engine, chain.first, op);
  if (chain.status != 0) return;
  const ranges = rangesOf(device);
  for (let i: u32 = 0; i < ranges; i++) {
    const range = Range.at(device, i);
    if (range.sectors == 0) continue;
    const unmap: i32 = range.flags != 0 ? REQUEST_MAY_UNMAP : 0;
    const length = <u64>range.sectors * SECTOR_SIZE;
    append(engine, index, op, flags | unmap, 0, 0, range.sector * SECTOR_SIZE, length);
  }
}

/** Appends a request of a chain to the engine's ring. */
function append(
  engine: usize,
  index: u32,
  op: i32,
  flags: i32,
  segments: u32,
  data: u32,
  offset: u64,
  length: u64,
): void {
  const device = Device.of(engine);
  const chain = Chain.at(changetype<usize>(device), index);
  chain.pending += 1;
  device.outstanding += 1;
  const queue = <u32>chain.queue + 1;
  appendRequest(engine, TAG_CHAIN | index, op, flags, queue, segments, data, offset, length);
}
