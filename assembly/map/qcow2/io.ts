// Orders of the mapping for the host: loads and writes of metadata, copies, space.
//
// J1  An order is made only when a record is free; its answer comes exactly once. Whoever finds
//     none keeps its state and tries again after an answer.

import { MAP_IOS } from '../../../src/abi/map.ts';
import { NONE } from '../../engine.ts';
import { VERIFY, verify } from '../../verify.ts';
import { IO_SIZE, Qcow2 } from './state.ts';

// What an order is for; `arg` says which.
export const IO_LOAD_L2: u32 = 1;
export const IO_LOAD_REFCOUNTS: u32 = 2;
export const IO_BUFFER: u32 = 3;
export const IO_FILL: u32 = 4;
export const IO_CYCLE: u32 = 5;
export const IO_WORKER: u32 = 6;
export const IO_COPY: u32 = 7;
export const IO_HEADER: u32 = 8;

@unmanaged
export class Io {
  offset: u64;
  length: u64;
  /** Bytes from the base of the map, or 0. */
  at: u32;
  next: u32;
  purpose: u32;
  arg: u32;
  op: u32;
  file: u32;
  flags: u32;

  static at(map: Qcow2, id: u32): Io {
    if (VERIFY) verify(id < <u32>MAP_IOS);
    return changetype<Io>(map.place(map.iosAt) + <usize>id * IO_SIZE);
  }
}

if (offsetof<Io>() > <usize>IO_SIZE) ERROR('Io');

export function initIos(map: Qcow2): void {
  for (let id: u32 = 0; id < <u32>MAP_IOS; id++) {
    Io.at(map, id).next = id + 1 < <u32>MAP_IOS ? id + 1 : NONE;
  }
  map.ioFree = 0;
  map.ioHead = NONE;
  map.ioTail = NONE;
  map.ioOpen = 0;
}

/** J1: true when an order can be made. */
export function hasIo(map: Qcow2): bool {
  return map.ioFree != NONE;
}

/** Makes an order; the caller has seen that it can. `at` is where the bytes lie, from the base. */
export function order(
  map: Qcow2,
  op: u32,
  file: u32,
  offset: u64,
  length: u64,
  at: u32,
  purpose: u32,
  arg: u32,
): Io {
  const id = map.ioFree;
  const io = Io.at(map, id);
  map.ioFree = io.next;
  map.ioOpen += 1;
  io.op = op;
  io.file = file;
  io.offset = offset;
  io.length = length;
  io.at = at;
  io.purpose = purpose;
  io.arg = arg;
  io.flags = 0;
  io.next = NONE;
  if (map.ioTail == NONE) map.ioHead = id;
  else Io.at(map, map.ioTail).next = id;
  map.ioTail = id;
  return io;
}

/** Takes the next order that the host has not got, or NONE. */
export function takeOrder(map: Qcow2): u32 {
  const id = map.ioHead;
  if (id == NONE) return NONE;
  map.ioHead = Io.at(map, id).next;
  if (map.ioHead == NONE) map.ioTail = NONE;
  return id;
}

/** Gives the record of an answered order back. */
export function closeIo(map: Qcow2, id: u32): void {
  Io.at(map, id).next = map.ioFree;
  map.ioFree = id;
  map.ioOpen -= 1;
}
