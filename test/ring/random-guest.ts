/**
 * A driver that does anything: it adds random requests in random framings to a ring of a RingPair,
 * and now and then breaks one of the rules that a driver has to keep. It writes only what a driver
 * may write, so every other byte is the device's.
 */

import * as abi from '../../src/abi/virtio-device.ts';
import * as blk from '../../src/abi/virtio-blk.ts';
import * as ring from '../../src/abi/virtio-ring.ts';
import type { Random } from '../engine/random.ts';
import type { RingPair } from './pair.ts';

/** Bytes of the guest's memory. */
export const RAM_BYTES = 0x8000;

// The guest's memory: the ring, the indirect tables, and an area of buffers for each chain.
const DESC = 0x000;
const DRIVER = 0x400;
const DEVICE = 0x800;
const TABLES = 0x1000;
const TABLE_BYTES = 0x100;
const AREAS = 0x2000;
const AREA_BYTES = 0x800;
const AREA_COUNT = 12;
const WRITABLE = 0x280;
const RANGE_AT = 16;
const MISCHIEF = 0.02;

interface Buffer {
  readonly at: number;
  readonly length: number;
  readonly writable: boolean;
}

interface Sent {
  readonly id: number;
  readonly area: number;
  /** Descriptors of the ring. */
  readonly slots: readonly number[];
}

const { VIRTQ_DESC_F_NEXT: NEXT, VIRTQ_DESC_F_WRITE: WRITE } = ring;
const INDIRECT = ring.VIRTQ_DESC_F_INDIRECT;

/** See the head of the file. */
export class RandomGuest {
  readonly #pair: RingPair;
  readonly #random: Random;
  readonly #packed: boolean;
  readonly #size: number;
  readonly #flags: number;
  #sent: Sent[] = [];
  readonly #areas: number[];
  /** Split: free descriptors. */
  readonly #free: number[];
  #avail: number;
  #wrap = 1;
  /** A rule was broken: which buffers the device still uses is known only when it uses none. */
  #isWild = false;

  constructor(pair: RingPair, random: Random, packed: boolean) {
    this.#pair = pair;
    this.#random = random;
    this.#packed = packed;
    this.#size = packed ? 1 + random.below(16) : random.pick([1, 2, 4, 8, 16]);
    this.#areas = Array.from({ length: AREA_COUNT }, (_, area) => area);
    this.#free = Array.from({ length: this.#size }, (_, index) => index);
    let flags = random.chance(0.7) ? abi.QUEUE_INDIRECT : 0;
    if (random.chance(0.5)) flags |= abi.QUEUE_EVENT_IDX;
    if (random.chance(0.3)) flags |= abi.QUEUE_IN_ORDER;
    if (random.chance(0.2)) flags |= abi.QUEUE_NOTIFY_ON_EMPTY;
    this.#flags = flags;
    this.#avail = packed ? random.below(this.#size) : random.pick([0, 0xfff0, 0x7ffe]);
    if (packed) this.#wrap = random.below(2);
    this.#begin();
  }

  /** Does something. */
  step(): void {
    const random = this.#random;
    const { rig } = this.#pair;
    if (random.chance(0.1)) this.#writeEvent();
    for (let chains = random.below(4); chains > 0; chains--) this.#add();
    if (random.chance(0.3)) return this.#round();
    if (random.chance(0.7)) rig.notify();
    for (let answers = random.below(4); answers > 0 && rig.inFlight.length > 0; answers--) {
      rig.answer(random.below(rig.inFlight.length));
    }
    this.#pair.pump();
    this.#takeBack();
  }

  /** Everything that is in flight comes back. */
  end(): void {
    this.#round();
  }

  /** Takes the queue off; the positions are compared. */
  leave(): void {
    this.#pair.detach();
  }

  #begin(): void {
    const pair = this.#pair;
    const size = this.#size;
    pair.load(new Uint8Array(pair.guest.bytes.length).fill(0x5a));
    for (let at = 0; at < TABLES; at += 4) pair.u32(at, 0);
    const position = this.#packed ? this.#avail | (this.#wrap << 15) : this.#avail;
    if (this.#packed) {
      for (let slot = 0; slot < size; slot++) {
        // As an earlier lap has left it: used.
        const lap = slot >= this.#avail ? this.#wrap : 1 - this.#wrap;
        const both = ring.VIRTQ_DESC_F_AVAIL | ring.VIRTQ_DESC_F_USED;
        const marks = lap === 1 ? 0 : both;
        pair.u16(DESC + slot * ring.DESC_SIZE + ring.PACKED_DESC_FLAGS, marks);
      }
    } else {
      pair.u16(DRIVER + ring.AVAIL_IDX, position);
      pair.u16(DEVICE + ring.USED_IDX, position);
    }
    const areas = { desc: DESC, driver: DRIVER, device: DEVICE };
    pair.attach({ packed: this.#packed, size, flags: this.#flags, position, ...areas });
  }

  #round(): void {
    this.#pair.round();
    this.#takeBack();
  }

  /** What the device has returned is the driver's again. */
  #takeBack(): void {
    const { model } = this.#pair;
    if (this.#isWild && model?.inFlight !== 0) return;
    this.#sent = this.#sent.filter((chain) => {
      if (model?.holds(chain.id) === true || !this.#wasSeen()) return true;
      this.#areas.push(chain.area);
      if (!this.#packed) this.#free.push(...chain.slots);
      return false;
    });
  }

  /** True when the device has taken all that was added. */
  #wasSeen(): boolean {
    const [avail = 0] = this.#pair.model?.position ?? [];
    return avail === (this.#packed ? this.#avail | (this.#wrap << 15) : this.#avail);
  }

  #room(): number {
    if (!this.#packed) return this.#free.length;
    return this.#size - this.#sent.reduce((sum, { slots }) => sum + slots.length, 0);
  }

  /** Adds a request, if it finds room. */
  #add(): void {
    const random = this.#random;
    const area = this.#areas.at(-1);
    const room = this.#room();
    if (area === undefined || room === 0) return;
    const buffers = this.#makeBuffers(AREAS + area * AREA_BYTES);
    const canIndirect = (this.#flags & abi.QUEUE_INDIRECT) !== 0;
    let direct = canIndirect && random.chance(0.5) ? 0 : buffers.length;
    if (!this.#packed && canIndirect && random.chance(0.3)) direct = random.below(buffers.length);
    const isIndirect = direct < buffers.length;
    const needed = direct + (isIndirect ? 1 : 0);
    if (needed > room) return;
    this.#areas.pop();
    const slots = this.#packed
      ? Array.from({ length: needed }, (_, i) => (this.#avail + i) % this.#size)
      : this.#free.splice(0, needed);
    const table = TABLES + area * TABLE_BYTES;
    const written = isIndirect ? this.#writeTable(table, buffers.slice(direct)) : [];
    const entries = buffers.slice(0, direct);
    const tableBytes = written.length * ring.DESC_SIZE;
    if (isIndirect) entries.push({ at: table, length: tableBytes, writable: random.chance(0.1) });
    this.#publish(area, slots, entries, isIndirect, written);
  }

  #publish(
    area: number,
    slots: readonly number[],
    entries: readonly Buffer[],
    isIndirect: boolean,
    table: readonly number[],
  ): void {
    const random = this.#random;
    const pair = this.#pair;
    const id = this.#packed ? this.#freeId() : slots[0]!;
    for (const [index, slot] of slots.entries()) {
      const isLast = index + 1 === slots.length;
      const kind = isLast ? (isIndirect ? INDIRECT : 0) : NEXT;
      const link = this.#packed ? id : (slots[index + 1] ?? random.below(0x1_0000));
      this.#write(DESC + slot * ring.DESC_SIZE, entries[index]!, kind | this.#marks(slot), link);
    }
    this.#sent.push({ id, area, slots });
    if (this.#strikes(1)) {
      this.#break(random.pick([...slots.map((slot) => DESC + slot * ring.DESC_SIZE), ...table]));
    }
    if (this.#packed) {
      this.#avail += slots.length;
      if (this.#avail < this.#size) return;
      this.#avail -= this.#size;
      this.#wrap ^= 1;
      return;
    }
    const entry = DRIVER + ring.AVAIL_RING + (this.#avail % this.#size) * ring.AVAIL_ENTRY_SIZE;
    const isBad = this.#strikes(1 / 4);
    pair.u16(entry, isBad ? random.pick([random.below(this.#size), this.#size, 0xffff]) : id);
    this.#avail = (this.#avail + 1) & 0xffff;
    const isFar = this.#strikes(1 / 2);
    // Nearly right is what a device could overlook while chains are in flight.
    const far = random.pick([random.below(0x1_0000), this.#avail + random.below(this.#size + 1)]);
    pair.u16(DRIVER + ring.AVAIL_IDX, isFar ? far : this.#avail);
  }

  /** Whether a rule is to be broken. */
  #strikes(share: number): boolean {
    const isStruck = this.#random.chance(MISCHIEF * share);
    if (isStruck) this.#isWild = true;
    return isStruck;
  }

  /** Packed: AVAIL and USED of a slot that is being made available. */
  #marks(slot: number): number {
    if (!this.#packed) return 0;
    const wrap = slot >= this.#avail ? this.#wrap : 1 - this.#wrap;
    return wrap === 1 ? ring.VIRTQ_DESC_F_AVAIL : ring.VIRTQ_DESC_F_USED;
  }

  #freeId(): number {
    const random = this.#random;
    const ids = new Set(this.#sent.map(({ id }) => id));
    if (ids.size > 0 && this.#strikes(1 / 4)) return random.pick([...ids]);
    for (;;) {
      const id = random.pick([random.below(this.#size), random.below(0x1_0000)]);
      if (!ids.has(id)) return id;
    }
  }

  #writeTable(table: number, buffers: readonly Buffer[]): number[] {
    return buffers.map((buffer, index) => {
      const at = table + index * ring.DESC_SIZE;
      const isLast = index + 1 === buffers.length;
      // 2.8.7: in a packed table flags other than WRITE mean nothing.
      const flags = this.#packed ? this.#random.pick([0, NEXT, INDIRECT]) : isLast ? 0 : NEXT;
      this.#write(at, buffer, flags, index + 1);
      return at;
    });
  }

  #write(at: number, { at: offset, length, writable }: Buffer, flags: number, link: number): void {
    const pair = this.#pair;
    const all = flags | (writable ? WRITE : 0);
    pair.u64(at + ring.DESC_ADDRESS, pair.base + BigInt(offset));
    pair.u32(at + ring.DESC_LENGTH, length);
    pair.u16(at + (this.#packed ? ring.PACKED_DESC_FLAGS : ring.SPLIT_DESC_FLAGS), all);
    pair.u16(at + (this.#packed ? ring.PACKED_DESC_ID : ring.SPLIT_DESC_NEXT), link);
  }

  /** Changes a field of a descriptor that has just been written. */
  #break(at: number): void {
    const pair = this.#pair;
    const random = this.#random;
    const flagsAt = at + (this.#packed ? ring.PACKED_DESC_FLAGS : ring.SPLIT_DESC_FLAGS);
    const flags = pair.guest.view.getUint16(flagsAt, true);
    switch (random.below(4)) {
      case 0:
        pair.u16(flagsAt, flags ^ random.pick([NEXT, WRITE, INDIRECT, NEXT | INDIRECT, 8]));
        break;
      case 1:
        pair.u32(at + ring.DESC_LENGTH, random.pick([0, 1, 15, 17, 0x1_0000, 0xffff_ffff]));
        break;
      case 2:
        pair.u64(at + ring.DESC_ADDRESS, this.#anyAddress());
        break;
      default:
        // Packed: an id that is not the last one's means nothing.
        if (!this.#packed) pair.u16(at + ring.SPLIT_DESC_NEXT, random.below(this.#size + 2));
    }
  }

  #anyAddress(): bigint {
    const { base } = this.#pair;
    const end = base + BigInt(RAM_BYTES);
    return this.#random.pick([0n, base - 1n, base - 16n, end - 1n, end, 2n ** 64n - 1n]);
  }

  #writeEvent(): void {
    const random = this.#random;
    const pair = this.#pair;
    const [, used = 0] = pair.model?.position ?? [];
    const near = random.pick([used, used + 1, used - 1, used + 3, random.below(0x1_0000)]);
    if (this.#packed) {
      pair.u16(DRIVER + ring.EVENT_OFFSET, near);
      pair.u16(DRIVER + ring.EVENT_FLAGS, random.below(4));
    } else {
      pair.u16(DRIVER + ring.AVAIL_FLAGS, random.below(2));
      pair.u16(DRIVER + ring.AVAIL_RING + this.#size * ring.AVAIL_ENTRY_SIZE, near);
    }
  }

  /** Header, data and status of any request, cut anywhere. */
  #makeBuffers(area: number): Buffer[] {
    const random = this.#random;
    const { view } = this.#pair.guest;
    const types = [0, 0, 0, 1, 1, 1, 4, 8, 11, 13, 5, 2, 14, 0x8000_0000, 77];
    const type = random.pick(types);
    const sector = random.pick([0, 1, 5, 40, 63, 64, 2 ** 31]);
    this.#pair.u32(area + blk.BLK_HEADER_TYPE, type);
    this.#pair.u64(area + blk.BLK_HEADER_SECTOR, BigInt(sector));
    for (let at = RANGE_AT; at < WRITABLE; at += 4) this.#pair.u32(area + at, view.byteLength ^ at);
    this.#pair.u64(area + RANGE_AT, BigInt(random.below(66)));
    this.#pair.u32(area + RANGE_AT + blk.BLK_RANGE_SECTORS, random.below(4));
    this.#pair.u32(area + RANGE_AT + blk.BLK_RANGE_FLAGS, random.pick([0, 0, 0, 1, 2]));
    let out = type === 1 ? 512 : type >= 11 && type <= 14 ? 16 : 0;
    let into = type === 0 || type === 0x8000_0000 ? 512 : type === 8 ? 20 : 0;
    if (random.chance(0.05)) out = random.pick([0, 15, 16, 511, 528]);
    if (random.chance(0.05)) into = random.pick([0, 1, 19, 24, 511]);
    const header = random.chance(0.02) ? random.below(16) : 16;
    const status = random.chance(0.95) ? 1 : random.pick([0, 2, 5]);
    return [
      ...this.#cut(area, header === 16 ? 16 + out : header, false),
      ...this.#cut(area + WRITABLE, into + status, true),
    ];
  }

  #cut(start: number, total: number, writable: boolean): Buffer[] {
    const random = this.#random;
    const cuts = Array.from({ length: random.below(3) }, () => random.below(total + 1));
    const ends = [...cuts.sort((a, b) => a - b), total];
    return ends.map((end, index) => {
      const from = ends[index - 1] ?? 0;
      return { at: start + from, length: end - from, writable };
    });
  }
}
