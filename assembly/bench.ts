// Batches for bench/ that measure a part of the engine rather than all of it.

import { REGION_SIZE } from '../src/abi/region.ts';
import { VIRTIO_BLK_T_OUT } from '../src/abi/virtio-blk.ts';
import { Device } from './device.ts';
import { NONE } from './engine.ts';
import { parseChain } from './request/blk.ts';
import { Chain, Queue, Walk } from './ring/record.ts';
import { closeChain } from './ring/slot.ts';
import { beginTaking, takeChain } from './ring/take.ts';

/**
 * Takes up to `count` chains from the queues of the engine at `base` that were kicked, parses
 * them, and gives them back. Returns a hash: over all chains the sum of
 * type, sector, bytes, 31 * segments and place of the status, modulo 2^32.
 */
export function parseChains(base: usize, count: u32): u32 {
  const device = Device.of(base);
  let hash: u32 = 0;
  beginTaking(base);
  for (let left = count; left != 0; left--) {
    const index = takeChain(base);
    if (index == NONE) break;
    hash += parse(base, index);
    forget(base, index);
  }
  device.kicked = u64.MAX_VALUE;
  return hash;
}

/** Parses a chain; what bench/ compares of it: see parseChains. */
function parse(base: usize, index: u32): u32 {
  const device = base + REGION_SIZE;
  const walk = Walk.of(device);
  const chain = Chain.at(device, index);
  if (!parseChain(device, walk, chain)) return walk.type + <u32>walk.sector + chain.statusPlace;
  const data = walk.type <= <u32>VIRTIO_BLK_T_OUT ? <u32>walk.data + walk.dataSegments * 31 : 0;
  return walk.type + <u32>walk.sector + chain.statusPlace + data;
}

/** Gives a chain back: the queue has never seen it. */
function forget(base: usize, index: u32): void {
  const device = base + REGION_SIZE;
  const queue = Queue.at(device, Chain.at(device, index).queue);
  queue.used = (queue.used + 1) & 0xffff;
  closeChain(device, index);
}
