// The records of the rings: a queue, a chain taken from it, and what a walk along one has found.

import {
  CHAIN_SEGMENTS,
  CHAINS,
  DEVICE_QUEUES,
  QUEUE_COPIED,
  QUEUE_COUNTER,
  QUEUE_DESC,
  QUEUE_DEVICE,
  QUEUE_DRIVER,
  QUEUE_ERROR,
  QUEUE_ERROR_DESCRIPTOR,
  QUEUE_ERROR_HEAD,
  QUEUE_FLAGS,
  QUEUE_IN_FLIGHT,
  QUEUE_INFLIGHT,
  QUEUE_NEXT_AVAIL,
  QUEUE_NEXT_USED,
  QUEUE_PACKED,
  QUEUE_PRIVATE,
  QUEUE_RESUBMITS,
  QUEUE_SIZE,
  QUEUE_STATE,
  QUEUE_STRIDE,
} from '../../src/abi/virtio-device.ts';
import { SEGMENT_SIZE } from '../../src/abi/request.ts';
import { BLK_HEADER_SECTOR } from '../../src/abi/virtio-blk.ts';
import { CHAIN_RECORDS, CHAIN_SIZE, TABLE_SIZE, TABLES, WALK } from '../device.ts';
import { VERIFY, verify } from '../verify.ts';

/** A virtqueue: the words of src/abi/virtio-device.ts, then what is latched and private. */
@unmanaged
export class Queue {
  // 0: written by the host before attachQueue
  configSize: u32;
  configFlags: u32;
  configDesc: u64;
  configDriver: u64;
  configDevice: u64;
  nextAvail: u32;
  nextUsed: u32;
  // 40: written by the engine
  state: u32;
  error: u32;
  errorHead: u32;
  errorDescriptor: u32;
  inFlight: u32;
  /** Written by the host: chains that may be taken, of a copied guest. */
  copied: u32;
  // 64: written by the host before attachQueue
  inflight: u32;
  resubmits: u32;
  counter: u64;
  // 80: latched by attachQueue
  size: u32;
  flags: u32;
  /** Places of the three parts. */
  desc: u32;
  driver: u32;
  device: u32;
  /** Split: the next available index. Packed: the next descriptor, and the wrap counter there. */
  avail: u32;
  availWrap: u32;
  /** The same of the next used entry. */
  used: u32;
  usedWrap: u32;
  /** What `used` was at the last decision about an interrupt, if that is known. */
  signalled: u32;
  isSignalledKnown: u32;
  /** Packed: descriptors of the ring that are in flight. */
  slots: u32;
  /** Packed: the first used descriptor of the batch, whose flags are written last. */
  batchSlot: u32;
  batchFlags: u32;
  /** 1 while the driver is asked not to notify. */
  isSuppressed: u32;
  /** IN_ORDER: chains in flight, in the order in which they were made available. */
  orderHead: u32;
  orderTail: u32;
  /** Its number. */
  index: u32;
  /** Where peek.ts is: as `avail`. */
  peek: u32;
  peekWrap: u32;
  /** Of `resubmits`: chains that were taken. */
  resubmitted: u32;

  static at(device: usize, index: u32): Queue {
    return changetype<Queue>(device + DEVICE_QUEUES + <usize>index * QUEUE_STRIDE);
  }

  get isPacked(): bool {
    return (this.flags & QUEUE_PACKED) != 0;
  }

  /** True when `flag` (QUEUE_*) was negotiated. */
  has(flag: u32): bool {
    return (this.flags & flag) != 0;
  }
}

/** Heads (split) or buffer ids (packed) in flight, a bit for each; after the record. */
const QUEUE_HEADS: usize = 256;

/** Marks a head as in flight; false when it already is. */
export function enterHead(queue: Queue, head: u32): bool {
  const word = changetype<usize>(queue) + QUEUE_HEADS + ((head >> 5) << 2);
  const bits = load<u32>(word);
  const bit: u32 = 1 << (head & 31);
  store<u32>(word, bits | bit);
  return (bits & bit) == 0;
}

/** The head is the driver's again. */
export function leaveHead(queue: Queue, head: u32): void {
  const word = changetype<usize>(queue) + QUEUE_HEADS + ((head >> 5) << 2);
  store<u32>(word, load<u32>(word) & ~((<u32>1) << (head & 31)));
}

/** No head is in flight. */
export function clearHeads(queue: Queue): void {
  memory.fill(changetype<usize>(queue) + QUEUE_HEADS, 0, <usize>QUEUE_STRIDE - QUEUE_HEADS);
}

export const CHAIN_FREE: u16 = 0;
/** Its requests are in the engine. */
export const CHAIN_TAKEN: u16 = 1;
/** Answered; waits for earlier ones (IN_ORDER) or to be landed. */
export const CHAIN_DONE: u16 = 2;

/** A descriptor chain that was taken and not returned. Sizes are in bytes. */
@unmanaged
export class Chain {
  /** Next in the list that it is in. */
  next: u32;
  queue: u16;
  /** Split: its head. Packed: its buffer id. */
  head: u16;
  /** Packed: descriptors of the ring that it takes. */
  slots: u16;
  state: u16;
  /** Where the status byte goes, after `padding` zeroes; NOWHERE: there is none. */
  statusPlace: u32;
  // 16: zero at first.
  /** Segment table: its number and 1, or 0 for the record's own. */
  table: u32;
  /** VIRTIO_BLK_S_*; that of the first of its requests that failed. */
  status: i32;
  /** Requests that are not answered. */
  pending: u32;
  /** Bytes that it has written when all went well, the status area aside. */
  written: u32;
  // 32
  /** What goes into the used entry. */
  usedLength: u32;
  padding: u32;
  /** The first of its segments that has data. */
  first: u32;
  private reserved0: u32;
  private reserved1: u64;
  private reserved2: u64;
  // 64: CHAIN_SEGMENTS entries of a segment table.

  static at(device: usize, index: u32): Chain {
    if (VERIFY) verify(index < <u32>CHAINS);
    return changetype<Chain>(device + CHAIN_RECORDS + <usize>index * CHAIN_SIZE);
  }
}

const CHAIN_ZEROES: usize = 16;
const CHAIN_OWN_SEGMENTS: usize = 64;

/** Clears what has to be zero at first. */
export function clearChain(chain: Chain): void {
  v128.store(changetype<usize>(chain), i64x2.splat(0), CHAIN_ZEROES);
}

/** Where the record's own segments are. */
export function ownSegments(chain: Chain): usize {
  return changetype<usize>(chain) + CHAIN_OWN_SEGMENTS;
}

/** Where the segments of a chain are: its own, or a table. */
export function segmentsOf(device: usize, chain: Chain): usize {
  return chain.table == 0 ? ownSegments(chain) : tableAt(device, chain.table - 1);
}

/** Where a segment table is. */
export function tableAt(device: usize, table: u32): usize {
  return device + TABLES + <usize>table * TABLE_SIZE;
}

/** A walk along a chain, and what it has found. */
@unmanaged
export class Walk {
  /** Sum of all lengths, and of those of readable buffers. */
  total: u64;
  readable: u64;
  /** 1 once a writable descriptor has come. */
  direction: u32;
  /** The segments: where they begin, where the next goes, and where there is no more room. */
  list: u32;
  end: u32;
  limit: u32;
  /** How many of them are readable: they come first. */
  readableSegments: u32;
  /** The chain whose list it is, which may have a table instead; NONE: it has to do. */
  chain: u32;
  /** Packed: descriptors of the ring, and the buffer id of the last. */
  slots: u32;
  id: u32;
  /** When it failed: RING_ERROR_*, and at which descriptor. */
  error: u32;
  errorDescriptor: u32;
  /** 1: stop at an indirect table, as it is not there yet (peek.ts). */
  stopsAtTable: u32;
  /** The end of the last buffer that is several segments, as several regions hold it; or 0. */
  cutEnd: u32;
  /** The request header (5.2.6), copied. */
  type: u32;
  reserved: u32;
  sector: u64;
  /** Bytes in the direction of the type, its segments, and bytes in the other direction. */
  data: u64;
  stray: u64;
  dataSegments: u32;

  static of(device: usize): Walk {
    return changetype<Walk>(device + WALK);
  }
}

if (offsetof<Queue>('configSize') != QUEUE_SIZE) ERROR('Queue.configSize');
if (offsetof<Queue>('configFlags') != QUEUE_FLAGS) ERROR('Queue.configFlags');
if (offsetof<Queue>('configDesc') != QUEUE_DESC) ERROR('Queue.configDesc');
if (offsetof<Queue>('configDriver') != QUEUE_DRIVER) ERROR('Queue.configDriver');
if (offsetof<Queue>('configDevice') != QUEUE_DEVICE) ERROR('Queue.configDevice');
if (offsetof<Queue>('nextAvail') != QUEUE_NEXT_AVAIL) ERROR('Queue.nextAvail');
if (offsetof<Queue>('nextUsed') != QUEUE_NEXT_USED) ERROR('Queue.nextUsed');
if (offsetof<Queue>('state') != QUEUE_STATE) ERROR('Queue.state');
if (offsetof<Queue>('error') != QUEUE_ERROR) ERROR('Queue.error');
if (offsetof<Queue>('errorHead') != QUEUE_ERROR_HEAD) ERROR('Queue.errorHead');
if (offsetof<Queue>('errorDescriptor') != QUEUE_ERROR_DESCRIPTOR) ERROR('Queue.errorDescriptor');
if (offsetof<Queue>('inFlight') != QUEUE_IN_FLIGHT) ERROR('Queue.inFlight');
if (offsetof<Queue>('copied') != QUEUE_COPIED) ERROR('Queue.copied');
if (offsetof<Queue>('inflight') != QUEUE_INFLIGHT) ERROR('Queue.inflight');
if (offsetof<Queue>('resubmits') != QUEUE_RESUBMITS) ERROR('Queue.resubmits');
if (offsetof<Queue>('counter') != QUEUE_COUNTER) ERROR('Queue.counter');
if (offsetof<Queue>('size') != QUEUE_PRIVATE) ERROR('Queue.size');
if (offsetof<Queue>() > QUEUE_HEADS) ERROR('Queue');
if (<usize>QUEUE_STRIDE != QUEUE_HEADS + 65536 / 8) ERROR('QUEUE_STRIDE');
if (offsetof<Chain>('table') != CHAIN_ZEROES) ERROR('Chain.table');
if (offsetof<Chain>() != CHAIN_OWN_SEGMENTS) ERROR('Chain');
if (CHAIN_OWN_SEGMENTS + CHAIN_SEGMENTS * SEGMENT_SIZE != CHAIN_SIZE) ERROR('CHAIN_SIZE');
if (offsetof<Walk>('sector') - offsetof<Walk>('type') != BLK_HEADER_SECTOR) ERROR('Walk.sector');
