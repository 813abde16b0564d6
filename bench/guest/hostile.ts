// Rings that break rules, for comparing those that read them: a valid ring is made, and some of
// its words are set to what is likely to be at a limit.

import { QUEUE_INDIRECT, QUEUE_PACKED } from '../../src/abi/virtio-device.ts';
import * as virtq from '../../src/abi/virtio-ring.ts';
import type { Random } from '../random.ts';
import type { QueueConfig } from './device.ts';
import { GUEST_MAP, placeOf } from './memory.ts';
import { guestQueue, GuestRings, type RingShape } from './rings.ts';

const [FIRST, SECOND, THIRD] = GUEST_MAP.map(({ start, sizeBytes }) => ({
  start,
  end: start + sizeBytes,
}));
const WORD = 2 ** 32;

const ADDRESSES: readonly number[] = [
  0,
  SECOND!.start - 4,
  SECOND!.start,
  SECOND!.end - 100,
  SECOND!.end - 4,
  THIRD!.end - 512,
  THIRD!.end - 511,
  FIRST!.start - 1,
  FIRST!.start + 3,
  FIRST!.end - 512,
  FIRST!.end - 511,
  FIRST!.start + 12345 * WORD,
  2 ** 63,
  2 ** 64 - 4096,
];
const LENGTHS: readonly number[] = [
  0,
  1,
  15,
  16,
  17,
  47,
  512,
  4096,
  5000,
  2 ** 15,
  2 ** 23,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 16,
  2 ** 32 - 1,
];
const FLAGS: readonly number[] = [
  virtq.VIRTQ_DESC_F_NEXT,
  virtq.VIRTQ_DESC_F_WRITE,
  virtq.VIRTQ_DESC_F_INDIRECT,
  virtq.VIRTQ_DESC_F_NEXT | virtq.VIRTQ_DESC_F_WRITE,
  virtq.VIRTQ_DESC_F_AVAIL,
  virtq.VIRTQ_DESC_F_USED,
  8,
];

/** Fills a queue and breaks something; returns the queue. */
export function makeHostileRing(memory: ArrayBufferLike, random: Random): QueueConfig {
  const packed = random.below(2) === 1;
  const indirect = random.below(2) === 1;
  const descriptors = pick(random, [2, 3, 5, 8, 12, 64]);
  const shape = { packed, indirect, descriptors, chains: indirect ? 8 : 4, queues: 1 };
  new GuestRings(memory, shape, 1, random).install(0, 0);
  // Now and then a table where none was negotiated.
  const negotiated = indirect !== (random.below(8) === 0);
  const flags = (packed ? QUEUE_PACKED : 0) | (negotiated ? QUEUE_INDIRECT : 0);
  const { size, desc, driver, device } = guestQueue(shape, 0);
  const queue = { size, flags, desc, driver, device };
  const view = new DataView(memory);
  const places = descriptorsOf(view, queue, shape);
  for (let left = random.below(6); left > 0; left--) {
    if (!packed && random.below(4) === 0) breakAvail(view, queue, random);
    else breakDescriptor(view, pick(random, places), queue, random);
  }
  return queue;
}

/** Places of the descriptors that chains are made of, in the ring and in its tables. */
function descriptorsOf(view: DataView, queue: QueueConfig, shape: RingShape): number[] {
  const places: number[] = [];
  for (let index = 0; index < queue.size; index++) {
    const at = placeOf(queue.desc) + index * virtq.DESC_SIZE;
    if (view.getUint32(at + virtq.DESC_LENGTH, true) === 0) continue;
    places.push(at);
    if (!shape.indirect) continue;
    const low = view.getUint32(at, true);
    const table = placeOf(low + view.getUint32(at + 4, true) * WORD);
    for (let entry = 0; entry < shape.descriptors; entry++) {
      places.push(table + entry * virtq.DESC_SIZE);
    }
  }
  return places;
}

function breakDescriptor(view: DataView, at: number, queue: QueueConfig, random: Random): void {
  const isPacked = (queue.flags & QUEUE_PACKED) !== 0;
  const flags = at + (isPacked ? virtq.PACKED_DESC_FLAGS : virtq.SPLIT_DESC_FLAGS);
  const other = at + (isPacked ? virtq.PACKED_DESC_ID : virtq.SPLIT_DESC_NEXT);
  const { size } = queue;
  switch (random.below(6)) {
    case 0:
      view.setBigUint64(at, BigInt(pick(random, ADDRESSES)), true);
      break;
    case 1:
      view.setUint32(at + virtq.DESC_LENGTH, pick(random, LENGTHS), true);
      break;
    case 2:
      view.setUint16(flags, view.getUint16(flags, true) ^ pick(random, FLAGS), true);
      break;
    case 3:
      view.setUint16(flags, random.u32(), true);
      break;
    case 4:
      // A buffer that goes from the second region into the third.
      view.setBigUint64(at, BigInt(SECOND!.end - 1 - random.below(600)), true);
      break;
    default:
      view.setUint16(other, pick(random, [0, 1, 2, size - 1, size, 65535]), true);
  }
}

function breakAvail(view: DataView, queue: QueueConfig, random: Random): void {
  const avail = placeOf(queue.driver);
  const { size } = queue;
  const first = view.getUint16(avail + virtq.AVAIL_RING, true);
  if (random.below(2) === 0) {
    view.setUint16(avail + virtq.AVAIL_IDX, pick(random, [0, 1, 5, size, size + 1, 65535]), true);
  } else {
    const entry = avail + virtq.AVAIL_RING + random.below(4) * virtq.AVAIL_ENTRY_SIZE;
    view.setUint16(entry, pick(random, [first, random.below(size), size, 65535]), true);
  }
}

function pick<T>(random: Random, values: readonly T[]): T {
  return values[random.below(values.length)]!;
}
