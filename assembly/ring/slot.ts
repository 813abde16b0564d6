// The slots of chains in flight, and their segment tables.
//
// C1  A chain is taken only while a record, a segment table and room for its requests are free;
//     what is not taken stays in its queue. Nothing grows, and the host keeps room for its own.

import {
  BLK_RANGES,
  CHAIN_SEGMENTS,
  CHAIN_TABLES,
  CHAINS,
  HOST_REQUESTS,
} from '../../src/abi/virtio-device.ts';
import { SEGMENT_SIZE } from '../../src/abi/request.ts';
import { REQUEST_SLOTS } from '../../src/abi/limits.ts';
import { Device, TABLE_LINKS } from '../device.ts';
import { NONE } from '../engine.ts';
import { VERIFY, verify } from '../verify.ts';
import {
  Chain,
  CHAIN_FREE,
  CHAIN_TAKEN,
  clearChain,
  leaveHead,
  ownSegments,
  Queue,
  tableAt,
} from './record.ts';

/** Puts every record and table on its free list. */
export function initChains(device: usize): void {
  const state = changetype<Device>(device);
  for (let index: u32 = 0; index < <u32>CHAINS; index++) {
    Chain.at(device, index).next = index + 1 < <u32>CHAINS ? index + 1 : NONE;
    Chain.at(device, index).state = CHAIN_FREE;
  }
  for (let table: u32 = 0; table < <u32>CHAIN_TABLES; table++) {
    setTableLink(device, table, table + 1 < <u32>CHAIN_TABLES ? table + 1 : NONE);
  }
  state.freeChain = 0;
  state.freeTable = 0;
}

/** C1: true when a chain of any kind can be taken. */
export function hasRoom(state: Device): bool {
  return (
    state.freeChain != NONE &&
    state.freeTable != NONE &&
    state.outstanding + (BLK_RANGES + HOST_REQUESTS) <= <u32>REQUEST_SLOTS
  );
}

/** Opens a record for a chain of `queue`. The caller has seen room. */
export function openChain(device: usize, queue: Queue): u32 {
  const state = changetype<Device>(device);
  const index = state.freeChain;
  const chain = Chain.at(device, index);
  if (VERIFY) verify(chain.state == CHAIN_FREE);
  state.freeChain = chain.next;
  queue.inFlight += 1;
  chain.queue = <u16>queue.index;
  chain.slots = 0;
  chain.state = CHAIN_TAKEN;
  clearChain(chain);
  return index;
}

/** Moves the segments of a chain, which fill its record, to a table (C1); returns where it is. */
export function moveToTable(device: usize, index: u32): usize {
  const state = changetype<Device>(device);
  const chain = Chain.at(device, index);
  const table = state.freeTable;
  if (VERIFY) verify(table != NONE && chain.table == 0);
  state.freeTable = tableLink(device, table);
  chain.table = table + 1;
  const place = tableAt(device, table);
  memory.copy(place, ownSegments(chain), CHAIN_SEGMENTS * SEGMENT_SIZE);
  return place;
}

/** Frees the record of a chain that was returned, or that nobody wants back. */
export function closeChain(device: usize, index: u32): void {
  const chain = Chain.at(device, index);
  const queue = Queue.at(device, chain.queue);
  if (VERIFY) verify(chain.pending == 0);
  leaveHead(queue, chain.head);
  if (queue.isPacked) queue.slots -= chain.slots;
  dropChain(device, index);
}

/** Frees the record of a chain whose walk has failed: its head was never entered. */
export function dropChain(device: usize, index: u32): void {
  const state = changetype<Device>(device);
  const chain = Chain.at(device, index);
  if (VERIFY) verify(chain.state != CHAIN_FREE);
  if (chain.table != 0) {
    setTableLink(device, chain.table - 1, state.freeTable);
    state.freeTable = chain.table - 1;
  }
  Queue.at(device, chain.queue).inFlight -= 1;
  chain.state = CHAIN_FREE;
  chain.next = state.freeChain;
  state.freeChain = index;
}

function tableLink(device: usize, table: u32): u32 {
  return load<u32>(device + TABLE_LINKS + <usize>table * 4);
}

function setTableLink(device: usize, table: u32, next: u32): void {
  store<u32>(device + TABLE_LINKS + <usize>table * 4, next);
}

/** Counts the chains in flight over all queues, for the host to read. */
export function countInFlight(device: usize): u32 {
  const state = changetype<Device>(device);
  let chains: u32 = 0;
  for (let index: u32 = 0; index < state.queueCount; index++) {
    chains += Queue.at(device, index).inFlight;
  }
  state.inFlight = chains;
  return chains;
}
