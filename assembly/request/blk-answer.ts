// Answers to virtio-blk requests.
//
// W1  A chain is decided when the last of its requests is; its status is that of the first that
//     failed.
// W2  The status byte is the last byte of the chain that is written (5.2.6).
// W3  The used length counts what was written for certain: all of it when the request went well,
//     else the status area (2.7.8.2).
// W4  Nothing is written for a queue that is being reset.

import { QUEUE_DEAD, TAG_CHAIN } from '../../src/abi/virtio-device.ts';
import {
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
} from '../../src/abi/virtio-blk.ts';
import { STATUS_OK, STATUS_UNSUPPORTED } from '../../src/abi/request.ts';
import { Device, hasDevice } from '../device.ts';
import { NONE } from '../engine.ts';
import { NOWHERE } from '../guest.ts';
import { Chain, Queue } from '../ring/record.ts';

/** True for a request that a chain has made, and not the host. */
export function isOfChain(engine: usize, tag: u32): bool {
  return (tag & TAG_CHAIN) != 0 && hasDevice(engine);
}

/** True when the queue of such a request is being reset. */
export function isOfDead(engine: usize, tag: u32): bool {
  const device = changetype<usize>(Device.of(engine));
  const chain = Chain.at(device, tag & ~TAG_CHAIN);
  return Queue.at(device, chain.queue).state == QUEUE_DEAD;
}

/** True while requests of a chain are not answered. */
export function hasRequests(engine: usize, index: u32): bool {
  return Chain.at(changetype<usize>(Device.of(engine)), index).pending != 0;
}

/** A request of a chain is answered; returns the chain when it is decided (W1), or NONE. */
export function answerChain(engine: usize, tag: u32, status: u32): u32 {
  const device = Device.of(engine);
  const index = tag & ~TAG_CHAIN;
  const chain = Chain.at(changetype<usize>(device), index);
  device.outstanding -= 1;
  chain.pending -= 1;
  if (chain.status == VIRTIO_BLK_S_OK) chain.status = blkStatusOf(status);
  return chain.pending == 0 ? index : NONE;
}

/** Writes the status of a chain that is decided, and what goes into its used entry (W2 to W4). */
export function writeStatus(engine: usize, index: u32): void {
  const device = changetype<usize>(Device.of(engine));
  const chain = Chain.at(device, index);
  if (chain.statusPlace == <u32>NOWHERE) return;
  if (Queue.at(device, chain.queue).state == QUEUE_DEAD) return;
  const place = <usize>chain.statusPlace;
  for (let i = <usize>chain.padding; i != 0; i--) store<u8>(place - i, 0);
  store<u8>(place, <u8>chain.status);
  const written = chain.status == VIRTIO_BLK_S_OK ? chain.written : 0;
  chain.usedLength = written + chain.padding + 1;
}

function blkStatusOf(status: u32): i32 {
  switch (status) {
    case STATUS_OK:
      return VIRTIO_BLK_S_OK;
    case STATUS_UNSUPPORTED:
      return VIRTIO_BLK_S_UNSUPP;
    default:
      return VIRTIO_BLK_S_IOERR;
  }
}
