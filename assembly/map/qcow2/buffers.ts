// Buffers of one cluster each: for what surrounds the data of a write, for tables that are copied,
// and for clusters that were compressed.
//
// G1  A buffer has one user at a time. A user who needs two takes both or none, and nobody asks for
//     more while it holds one: so there is always somebody who goes on.
// G2  A plain cluster that was decompressed stays in its buffer until that is needed; who asked for
//     it reads it before anybody else can take the buffer.

import { COMMAND_READ } from '../../../src/abi/command.ts';
import { FILE_COMPRESSED } from '../../../src/abi/map.ts';
import { NONE } from '../../engine.ts';
import { packedBytes, packedOffset } from './entry.ts';
import { IO_BUFFER, order } from './io.ts';
import { WAIT_ANY_BUFFER, WAIT_BUFFER, wake } from './job.ts';
import { BUFFER_SIZE, Qcow2 } from './state.ts';

const BUFFER_FREE: u32 = 0;
const BUFFER_TAKEN: u32 = 1;
/** Compressed bytes are on their way. */
const BUFFER_LOADING: u32 = 2;
/** They have come, and its user has not looked yet. */
const BUFFER_LOADED: u32 = 3;

@unmanaged
export class Buffer {
  /** Entry of the cluster that it holds, or 0. */
  entry: u64;
  state: u32;
  used: u32;
  /** Who is to look first. */
  user: u32;

  static at(map: Qcow2, buffer: u32): Buffer {
    return changetype<Buffer>(map.place(map.buffersAt) + <usize>buffer * BUFFER_SIZE);
  }
}

if (offsetof<Buffer>() > <usize>BUFFER_SIZE) ERROR('Buffer');

export function initBuffers(map: Qcow2): void {
  memory.fill(map.place(map.buffersAt), 0, <usize>map.buffers * BUFFER_SIZE);
  map.bufferTick = 0;
}

/** Where a buffer's bytes lie, from the base. */
export function bufferAt(map: Qcow2, buffer: u32): u32 {
  return map.bufferDataAt + (buffer << map.clusterBits);
}

/** A free buffer, the longest unused one, or NONE. It is the caller's now. */
export function lendBuffer(map: Qcow2): u32 {
  let best = NONE;
  for (let at: u32 = 0; at < map.buffers; at++) {
    const buffer = Buffer.at(map, at);
    if (buffer.state != BUFFER_FREE) continue;
    if (best == NONE || buffer.used < Buffer.at(map, best).used) best = at;
  }
  if (best == NONE) return NONE;
  const buffer = Buffer.at(map, best);
  buffer.state = BUFFER_TAKEN;
  buffer.entry = 0;
  return best;
}

/** True when `count` buffers can be lent. */
export function areFree(map: Qcow2, count: u32): bool {
  let free: u32 = 0;
  for (let at: u32 = 0; at < map.buffers && free < count; at++) {
    free += u32(Buffer.at(map, at).state == BUFFER_FREE);
  }
  return free == count;
}

/** Gives a buffer back. */
export function returnBuffer(map: Qcow2, at: u32): void {
  const buffer = Buffer.at(map, at);
  buffer.state = BUFFER_FREE;
  buffer.used = ++map.bufferTick;
  wake(map, WAIT_ANY_BUFFER, 0);
}

/** The buffer that holds the plain bytes of a compressed cluster, or is to; NONE. */
export function findPlain(map: Qcow2, entry: u64): u32 {
  for (let at: u32 = 0; at < map.buffers; at++) {
    const buffer = Buffer.at(map, at);
    if (buffer.entry == entry && buffer.state != BUFFER_TAKEN) return at;
  }
  return NONE;
}

/** True once the plain bytes are there. */
export function isPlain(map: Qcow2, at: u32): bool {
  const state = Buffer.at(map, at).state;
  return state == BUFFER_FREE || state == BUFFER_LOADED;
}

/** Orders the plain bytes of a compressed cluster into a lent buffer, for the flight `user`. */
export function loadPlain(map: Qcow2, at: u32, entry: u64, user: u32): void {
  const buffer = Buffer.at(map, at);
  buffer.state = BUFFER_LOADING;
  buffer.entry = entry;
  buffer.user = user;
  const offset = packedOffset(map, entry);
  const bytes = packedBytes(map, entry);
  order(map, COMMAND_READ, FILE_COMPRESSED, offset, bytes, bufferAt(map, at), IO_BUFFER, at);
}

/** The flight `user` has read a buffer's plain bytes (G2). */
export function noteRead(map: Qcow2, at: u32, user: u32): void {
  const buffer = Buffer.at(map, at);
  if (buffer.state == BUFFER_LOADED && buffer.user == user) returnBuffer(map, at);
  else buffer.used = ++map.bufferTick;
}

/** The host has answered. */
export function plainAnswered(map: Qcow2, at: u32, errno: u32): void {
  const buffer = Buffer.at(map, at);
  buffer.state = BUFFER_LOADED;
  if (errno != 0) {
    buffer.entry = 0;
    returnBuffer(map, at);
  }
  wake(map, WAIT_BUFFER | at, errno);
}
