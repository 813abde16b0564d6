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
  BLK_HEADER_SIZE,
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
import { CONFIG_READ_ONLY } from '../../src/abi/region.ts';
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
  const device = Device.of(engine);
  const walk = Walk.of(changetype<usize>(device));
  const chain = Chain.at(changetype<usize>(device), index);
  chain.statusPlace = <u32>NOWHERE;
  if (walk.writable == 0) return; // V2
  const lastLength = placeStatus(walk, chain);
  if (!readHeader(device, walk, lastLength)) {
    chain.status = VIRTIO_BLK_S_IOERR;
    return;
  }
  const barrier = (walk.type & VIRTIO_BLK_T_BARRIER) != 0 && device.has(DEVICE_BARRIER);
  const flags = barrier ? REQUEST_BARRIER : 0;
  const type = walk.type & ~VIRTIO_BLK_T_BARRIER;
  if (isReadOnly(engine) && changesDisk(type)) chain.status = VIRTIO_BLK_S_IOERR;
  else dispatch(engine, index, chain, type, flags);
}

/** Does what the header says. */
function dispatch(engine: usize, index: u32, chain: Chain, type: u32, flags: i32): void {
  const device = Device.of(engine);
  switch (type) {
    case VIRTIO_BLK_T_IN:
      submitRead(engine, index, flags);
      break;
    case VIRTIO_BLK_T_OUT:
      submitWrite(engine, index, flags);
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

/**
 * Finds the status byte, which is the last writable one, and takes the status area off the list.
 * Where the data would not be whole sectors otherwise, or there is none, all of a last buffer
 * shorter than a sector is status area: zeroes, and the status in its last byte. Returns the length
 * of that buffer.
 */
function placeStatus(walk: Walk, chain: Chain): u32 {
  const last = <usize>walk.end - SEGMENT_SIZE;
  const length = load<u32>(last, SEGMENT_LENGTH);
  const writable = walk.writable;
  let area: u32 = 1;
  if (length != 1 && length < <u32>SECTOR_SIZE) {
    const before = writable - <u64>length;
    const isRagged: bool = before == 0 || (writable - 1) % SECTOR_SIZE != 0;
    if (isRagged && before % SECTOR_SIZE == 0) area = length;
  }
  chain.statusPlace = load<u32>(last, SEGMENT_ADDRESS) + length - 1;
  chain.padding = area - 1;
  walk.total -= <u64>area;
  if (length == area) walk.end = <u32>last;
  else store<u32>(last, length - area, SEGMENT_LENGTH);
  return length;
}

/** Copies the header (V1); false when it is not whole, or the framing not as it has to be. */
function readHeader(device: Device, walk: Walk, lastLength: u32): bool {
  if (walk.readable < <u64>BLK_HEADER_SIZE) return false;
  const first = <usize>walk.list;
  const length = load<u32>(first, SEGMENT_LENGTH);
  if (device.has(DEVICE_FIXED_FRAMING)) {
    if (length != BLK_HEADER_SIZE || lastLength != 1) return false;
  }
  const header = changetype<usize>(walk) + offsetof<Walk>('type');
  if (length < <u32>BLK_HEADER_SIZE) copyReadable(walk, header, 0, BLK_HEADER_SIZE);
  else v128.store(header, v128.load(load<u32>(first, SEGMENT_ADDRESS)));
  return true;
}

function submitRead(engine: usize, index: u32, flags: i32): void {
  const device = changetype<usize>(Device.of(engine));
  const walk = Walk.of(device);
  const chain = Chain.at(device, index);
  const length = walk.writable;
  if (walk.readable != <u64>BLK_HEADER_SIZE || !isWhole(engine, walk.sector, length)) {
    chain.status = VIRTIO_BLK_S_IOERR;
    return;
  }
  chain.written = <u32>length;
  chain.first = walk.readableSegments;
  submitData(engine, index, OP_READ, flags, length);
}

function submitWrite(engine: usize, index: u32, flags: i32): void {
  const device = changetype<usize>(Device.of(engine));
  const walk = Walk.of(device);
  const chain = Chain.at(device, index);
  const length = walk.readable - BLK_HEADER_SIZE;
  if (walk.writable != 0 || !isWhole(engine, walk.sector, length)) {
    chain.status = VIRTIO_BLK_S_IOERR;
    return;
  }
  chain.first = skipHeader(walk);
  submitData(engine, index, OP_WRITE, flags, length);
}

/** Sends the segments of the walk from the chain's first on as the data of a request. */
function submitData(engine: usize, index: u32, op: i32, flags: i32, length: u64): void {
  const device = changetype<usize>(Device.of(engine));
  const walk = Walk.of(device);
  const first = <usize>walk.list + <usize>Chain.at(device, index).first * SEGMENT_SIZE;
  const segments = <u32>(<usize>walk.end - first) / SEGMENT_SIZE;
  const offset = walk.sector * SECTOR_SIZE;
  if (segments > 1) append(engine, index, op, flags, segments, <u32>first, offset, length);
  else {
    // A request without data names one segment of no bytes.
    const place = segments == 1 ? load<u32>(first, SEGMENT_ADDRESS) : <u32>first;
    append(engine, index, op, flags, 1, place, offset, length);
  }
}

/** V5. */
function isWhole(engine: usize, sector: u64, length: u64): bool {
  const blockSectors = <u64>Device.of(engine).blockSectors;
  if (sector >> SECTOR_BITS != 0 || sector % blockSectors != 0) return false;
  return length % (blockSectors * SECTOR_SIZE) == 0;
}

/** 5.2.6: the id is 20 bytes; a shorter buffer gets the first of them. */
function answerId(device: usize, chain: Chain): void {
  const walk = Walk.of(device);
  const length = <u32>min(walk.writable, <u64>VIRTIO_BLK_ID_BYTES);
  chain.first = walk.readableSegments;
  chain.written = length;
  copyOut(walk, device + DEVICE_ID, length);
}

/** DISCARD and WRITE_ZEROES: all ranges are checked before the first is begun (5.2.6.2). */
function submitRanges(engine: usize, index: u32, op: i32, flags: i32): void {
  const device = changetype<usize>(Device.of(engine));
  const chain = Chain.at(device, index);
  chain.status = parseRanges(engine, op);
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
