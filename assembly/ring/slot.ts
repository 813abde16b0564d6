// The slots of chains in flight, and their segment tables.
//
// C1  A chain is taken only while a record, a segment table and room for its requests are free;
//     what is not taken stays in its queue. Nothing grows.

import { BLK_RANGES, CHAIN_SEGMENTS, CHAIN_TABLES, CHAINS } from '../../src/abi/virtio-device.ts';
import { REQUEST_SLOTS } from '../../src/abi/limits.ts';
import { VIRTIO_BLK_S_OK } from '../../src/abi/virtio-blk.ts';
import { Device, TABLE_LINKS } from '../device.ts';
import { NONE } from '../engine.ts';
import { NOWHERE } from '../guest.ts';
import { VERIFY, verify } from '../verify.ts';
import {
  Chain,
  CHAIN_FREE,
  CHAIN_TAKEN,
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
    state.outstanding + BLK_RANGES <= <u32>REQUEST_SLOTS
  );
}

/** Opens a record for a chain of `queue`. The caller has seen room. */
export function openChain(device: usize, queue: Queue, head: u32, slots: u32): u32 {
  const state = changetype<Device>(device);
  const index = state.freeChain;
  const chain = Chain.at(device, index);
  if (VERIFY) verify(chain.state == CHAIN_FREE);
  state.freeChain = chain.next;
  state.inFlight += 1;
  queue.inFlight += 1;
  chain.next = NONE;
  chain.queue = <u16>queue.index;
  chain.head = <u16>head;
  chain.slots = <u16>slots;
  chain.state = CHAIN_TAKEN;
  chain.status = VIRTIO_BLK_S_OK;
  chain.pending = 0;
  chain.statusPlace = <u32>NOWHERE;
  chain.padding = 0;
  chain.written = 0;
  chain.usedLength = 0;
  chain.table = NONE;
  chain.segments = 0;
  return index;
}

/** Room for the segments of a chain: its own, or a table (C1). */
export function segmentsFor(device: usize, chain: Chain, segments: u32): usize {
  chain.segments = segments;
  if (segments <= <u32>CHAIN_SEGMENTS) return ownSegments(chain);
  const state = changetype<Device>(device);
  const table = state.freeTable;
  if (VERIFY) verify(table != NONE);
  state.freeTable = tableLink(device, table);
  chain.table = table;
  return tableAt(device, table);
}

/** The chain is the driver's again, or nobody's: frees its record. */
export function closeChain(device: usize, index: u32): void {
  const state = changetype<Device>(device);
  const chain = Chain.at(device, index);
  const queue = Queue.at(device, chain.queue);
  if (VERIFY) verify(chain.state != CHAIN_FREE && chain.pending == 0);
  if (chain.table != NONE) {
    setTableLink(device, chain.table, state.freeTable);
    state.freeTable = chain.table;
  }
  leaveHead(queue, chain.head);
  queue.slots -= chain.slots;
  queue.inFlight -= 1;
  state.inFlight -= 1;
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
