/** What drivers must not do, and guests do: a chain that is sound is changed in the ring. */

import * as ring from '../../../src/abi/virtio-ring.ts';
import { BUFFERS, BIG_BYTES, LONG, RAM_BYTES } from './layout.ts';
import { BIG_AT, type Ram } from './ram.ts';
import type { Ring, Written } from './ring.ts';

/** Damage by its number in an action: from here on. */
export const FIRST_DAMAGE = 192;

/** What is changed. */
export interface Victim {
  readonly ram: Ram;
  readonly ring: Ring;
  readonly written: Written;
  /** One of its descriptors. */
  readonly which: number;
}

type Damage = (victim: Victim) => void;

const { DESC_SIZE, DESC_ADDRESS, DESC_LENGTH, SPLIT_DESC_NEXT, PACKED_DESC_ID } = ring;
const NEXT = ring.VIRTQ_DESC_F_NEXT;
const WRITE = ring.VIRTQ_DESC_F_WRITE;
const INDIRECT = ring.VIRTQ_DESC_F_INDIRECT;

function descriptor({ written, which }: Victim): number {
  return written.descriptors[which % written.descriptors.length]!;
}

function flagsAt({ ring: { packed } }: Victim, at: number): number {
  return at + (packed ? ring.PACKED_DESC_FLAGS : ring.SPLIT_DESC_FLAGS);
}

const next =
  (value: (victim: Victim) => number): Damage =>
  (victim) =>
    victim.ram.set(descriptor(victim) + SPLIT_DESC_NEXT, 2, value(victim));

const length =
  (value: number): Damage =>
  (victim) =>
    victim.ram.set(descriptor(victim) + DESC_LENGTH, 4, value);

const addressAt =
  (at: number): Damage =>
  (victim) =>
    victim.ram.setU64(descriptor(victim) + DESC_ADDRESS, victim.ram.addressOf(at));

const address =
  (value: bigint): Damage =>
  (victim) =>
    victim.ram.setU64(descriptor(victim) + DESC_ADDRESS, value);

const flip =
  (flags: number): Damage =>
  (victim) => {
    const at = flagsAt(victim, descriptor(victim));
    victim.ram.set(at, 2, victim.ram.get(at, 2) ^ flags);
  };

/** The last descriptor of the ring becomes an indirect one of `bytes` bytes at `at`. */
const indirect =
  (bytes: number, at: number = LONG, flags = 0): Damage =>
  (victim) => {
    const { ram, written } = victim;
    const last = written.descriptors[written.tableFrom - 1]!;
    const before = ram.get(flagsAt(victim, last), 2) & ~(NEXT | WRITE);
    ram.set(flagsAt(victim, last), 2, before | INDIRECT | flags);
    ram.set(last + DESC_LENGTH, 4, bytes);
    ram.setU64(last + DESC_ADDRESS, ram.addressOf(at));
  };

/** A table of `count` buffers of `bytes` bytes each from `at` on, the last of them writable. */
const longTable =
  (count: number, bytes: number, at: number, stride = 0): Damage =>
  (victim) => {
    const { ram } = victim;
    for (let index = 0; index < count; index++) {
      const entry = LONG + index * DESC_SIZE;
      const isLast = index === count - 1;
      ram.setU64(entry + DESC_ADDRESS, ram.addressOf(at + index * stride));
      ram.set(entry + DESC_LENGTH, 4, isLast ? 1 : bytes);
      ram.set(flagsAt(victim, entry), 2, isLast ? WRITE : NEXT);
      // A packed table has no `next`, and its ids mean nothing.
      if (!victim.ring.packed) ram.set(entry + SPLIT_DESC_NEXT, 2, index + 1);
    }
    indirect(count * DESC_SIZE)(victim);
  };

const head =
  (value: (victim: Victim) => number): Damage =>
  (victim) => {
    const { ram, ring, written } = victim;
    if (ring.packed)
      ram.set(written.descriptors[written.tableFrom - 1]! + PACKED_DESC_ID, 2, value(victim));
    else ram.set(written.entry, 2, value(victim));
  };

const index =
  (change: (victim: Victim) => number): Damage =>
  (victim) => {
    const { ram, ring: where } = victim;
    if (where.packed) flip(ring.VIRTQ_DESC_F_AVAIL)(victim);
    else ram.set(where.places.driver + ring.AVAIL_IDX, 2, where.next + change(victim) + 65536);
  };

const DAMAGES: readonly Damage[] = [
  next(({ ring }) => ring.size),
  next(() => 0xffff),
  next(({ written, which, ring }) => {
    const at = written.descriptors[which % written.descriptors.length]!;
    return Math.max(0, (at - ring.places.desc) / DESC_SIZE) & 0xffff;
  }),
  next(({ written }) => written.id),
  next(() => 0),
  flip(NEXT),
  flip(WRITE),
  flip(INDIRECT),
  flip(NEXT | INDIRECT),
  flip(INDIRECT | WRITE),
  flip(0x40),
  flip(0xff00),
  length(0),
  length(0xffff_ffff),
  length(15),
  length(17),
  length(513),
  length(5),
  address(2n ** 64n - 100n),
  address(2n ** 63n),
  addressAt(RAM_BYTES),
  addressAt(RAM_BYTES - 1),
  addressAt(RAM_BYTES - 16),
  addressAt(-1),
  addressAt(BUFFERS + 0x1010),
  addressAt(BUFFERS + 0x100f),
  indirect(0),
  indirect(47),
  indirect(16),
  indirect(0x10_0000),
  indirect(0xffff0),
  indirect(32, RAM_BYTES - 16),
  indirect(16, LONG, NEXT),
  indirect(32, LONG, WRITE),
  longTable(1040, 1, BUFFERS),
  longTable(1024, 16, BUFFERS),
  longTable(700, BIG_BYTES, BIG_AT),
  longTable(1024, 16, BUFFERS + 0x108, 1),
  longTable(600, 0x900, BUFFERS),
  longTable(3, 8, BUFFERS),
  head(({ ring }) => ring.size),
  head(() => 0xffff),
  head(({ which }) => which),
  index(({ ring }) => ring.size + 1),
  index(() => -1),
  index(() => 1),
  index(({ which }) => 1 << which),
  // The same head twice.
  ({ ring, written }) => {
    if (!ring.packed) ring.offer(written.id);
  },
  // All of a packed ring goes on and on.
  ({ ram, ring: where }) => {
    if (!where.packed) return;
    for (let slot = 0; slot < where.size; slot++) {
      const at = where.places.desc + slot * DESC_SIZE + ring.PACKED_DESC_FLAGS;
      ram.set(at, 2, ram.get(at, 2) | NEXT);
    }
  },
  // A packed list of all of the ring, what is in flight too.
  ({ ram, ring: where, written }) => {
    if (!where.packed) return;
    const first = (written.entry - where.places.desc) / DESC_SIZE;
    const wrap = where.next > first ? where.wrap : where.wrap ^ 1;
    const turn = wrap === 1 ? ring.VIRTQ_DESC_F_AVAIL : ring.VIRTQ_DESC_F_USED;
    for (let slots = 0; slots < where.size; slots++) {
      const at = where.places.desc + ((first + slots) % where.size) * DESC_SIZE;
      const more = slots + 1 < where.size ? NEXT : 0;
      ram.set(at + DESC_LENGTH, 4, 0);
      ram.set(at + ring.PACKED_DESC_FLAGS, 2, (slots === 0 ? turn : 0) | more);
    }
  },
  // Buffers on the rings.
  (victim) => addressAt(victim.ring.places.desc)(victim),
  (victim) => addressAt(victim.ring.places.driver)(victim),
  (victim) => addressAt(victim.ring.places.device)(victim),
];

/** True for a number that damages. */
export function isDamage(byte: number): boolean {
  return byte >= FIRST_DAMAGE && byte - FIRST_DAMAGE < DAMAGES.length;
}

/** Damages a chain that was just made available. */
export function damage(byte: number, victim: Victim): void {
  DAMAGES[byte - FIRST_DAMAGE]?.(victim);
}
