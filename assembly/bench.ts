// Batches for bench/ that measure a part of the engine rather than all of it.

import { REGION_SIZE, REQUEST_RING } from '../src/abi/region.ts';
import { RING_ENTRIES } from '../src/abi/limits.ts';
import { REQUEST_LENGTH, REQUEST_SEGMENTS, REQUEST_SIZE } from '../src/abi/request.ts';
import { Device } from './device.ts';
import { Engine, NONE } from './engine.ts';
import { submitChain } from './request/blk.ts';
import { Chain, Queue, Walk } from './ring/record.ts';
import { closeChain } from './ring/slot.ts';
import { beginTaking, takeChain } from './ring/take.ts';

/**
 * Takes up to `count` chains from the queues of the engine at `base` that were kicked, parses them
 * into requests, and forgets these and the chains. Returns a hash: over all chains the sum of
 * type, sector, bytes, 31 * segments and place of the status, modulo 2^32.
 */
export function parseChains(base: usize, count: u32): u32 {
  const device = Device.of(base);
  let hash: u32 = 0;
  beginTaking(base);
  for (let left = count; left != 0; left--) {
    const index = takeChain(base);
    if (index == NONE) break;
    submitChain(base, index);
    hash += hashOf(base, index);
    forget(base, index);
  }
  device.kicked = u64.MAX_VALUE;
  return hash;
}

/** What bench/ compares: see parseChains. */
function hashOf(base: usize, index: u32): u32 {
  const device = base + REGION_SIZE;
  const walk = Walk.of(device);
  const chain = Chain.at(device, index);
  const header = walk.type + <u32>walk.sector + chain.statusPlace;
  if (chain.pending == 0) return header;
  const last = <usize>(changetype<Engine>(base).requestTail - 1) % RING_ENTRIES;
  const record = base + REQUEST_RING + last * REQUEST_SIZE;
  return header + load<u32>(record, REQUEST_LENGTH) + load<u32>(record, REQUEST_SEGMENTS) * 31;
}

/** Takes the requests of a chain back, and the chain itself: the queue has never seen it. */
function forget(base: usize, index: u32): void {
  const device = base + REGION_SIZE;
  const state = changetype<Device>(device);
  const chain = Chain.at(device, index);
  const engine = changetype<Engine>(base);
  engine.requestTail -= chain.pending;
  state.outstanding -= chain.pending;
  chain.pending = 0;
  const queue = Queue.at(device, chain.queue);
  queue.used = (queue.used + 1) & 0xffff;
  closeChain(device, index);
}
