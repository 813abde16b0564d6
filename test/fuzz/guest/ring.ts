/**
 * The driver's side of a ring in RAM: which descriptors are free, where the next one goes. It makes
 * chains available at once; the device looks when it is pumped.
 */

import * as abi from '../../../src/abi/virtio-device.ts';
import * as ring from '../../../src/abi/virtio-ring.ts';
import type { RingPlaces } from './layout.ts';
import type { Ram } from './ram.ts';
import type { Piece } from './request.ts';

/** A chain as it was written. */
export interface Written {
  /** Head, or buffer id. */
  readonly id: number;
  /** Where its descriptors are, first to last; that of an indirect table among them. */
  readonly descriptors: readonly number[];
  /** Those from here on are in an indirect table; the one before names it. */
  readonly tableFrom: number;
  /** The ring entry that makes it available: its head in the available ring, or its first slot. */
  readonly entry: number;
}

const { DESC_SIZE } = ring;

/** See the head of the file. */
export class Ring {
  readonly packed: boolean;
  readonly size: number;
  readonly flags: number;
  readonly places: RingPlaces;
  /** The next available index; or slot, and the wrap counter there. */
  next = 0;
  wrap = 1;
  readonly #ram: Ram;
  /** Free descriptors (split) or ids (packed). */
  #free: number[] = [];
  /** What each id in flight holds: descriptors, or how many slots. */
  readonly #held = new Map<number, number[]>();
  #slots = 0;

  constructor(ram: Ram, places: RingPlaces, size: number, flags: number) {
    this.#ram = ram;
    this.places = places;
    this.size = size;
    this.flags = flags;
    this.packed = (flags & abi.QUEUE_PACKED) !== 0;
    this.forget();
  }

  /** Everything is the driver's again. */
  forget(): void {
    this.#held.clear();
    this.#slots = 0;
    this.#free = Array.from({ length: this.size }, (_, index) => this.size - 1 - index);
  }

  /** Goes on from a position (QUEUE_NEXT_AVAIL). */
  moveTo(position: number): void {
    this.next = this.packed ? position & (ring.WRAP_BIT - 1) : position;
    this.wrap = position >> 15;
  }

  /** A chain came back. */
  release(id: number): void {
    const held = this.#held.get(id);
    if (held === undefined) return;
    this.#held.delete(id);
    if (this.packed) {
      this.#slots -= held.length;
      this.#free.push(id);
    } else this.#free.push(...held);
  }

  /** True when nothing that was made available is missing. */
  get isIdle(): boolean {
    return this.#held.size === 0;
  }

  /** Makes a chain available: `direct` buffers in the ring, the others in a table at `table`. */
  add(
    pieces: readonly Piece[],
    direct: number,
    table: number,
    backwards = false,
  ): Written | undefined {
    const inRing = direct + (direct < pieces.length ? 1 : 0);
    if (inRing === 0 || inRing > this.#room()) return undefined;
    return this.packed
      ? this.#addPacked(pieces, direct, table, inRing)
      : this.#addSplit(pieces, direct, table, inRing, backwards);
  }

  #room(): number {
    if (!this.packed) return this.#free.length;
    return this.#free.length === 0 ? 0 : this.size - this.#slots;
  }

  #addSplit(
    pieces: readonly Piece[],
    direct: number,
    table: number,
    inRing: number,
    backwards: boolean,
  ): Written {
    const held = this.#free.splice(-inRing).toReversed();
    if (backwards) held.reverse();
    const id = held[0]!;
    const descriptors = held.map((index) => this.places.desc + index * DESC_SIZE);
    for (let i = 0; i < inRing; i++) {
      const isTable = i === direct;
      const more = i + 1 < inRing ? ring.VIRTQ_DESC_F_NEXT : 0;
      if (isTable) this.#putTable(descriptors[i]!, pieces.length - direct, table);
      else this.#put(descriptors[i]!, pieces[i]!, more);
      this.#ram.set(descriptors[i]! + ring.SPLIT_DESC_NEXT, 2, held[i + 1] ?? 0);
    }
    for (let i = direct; i < pieces.length; i++) {
      const at = table + (i - direct) * DESC_SIZE;
      const more = i + 1 < pieces.length ? ring.VIRTQ_DESC_F_NEXT : 0;
      this.#put(at, pieces[i]!, more);
      this.#ram.set(at + ring.SPLIT_DESC_NEXT, 2, i + 1 - direct);
      descriptors.push(at);
    }
    this.#held.set(id, held);
    return { id, descriptors, tableFrom: inRing, entry: this.offer(id) };
  }

  /** Puts a head into the available ring (split); returns where. */
  offer(head: number): number {
    const { driver } = this.places;
    const entry = driver + ring.AVAIL_RING + (this.next & (this.size - 1)) * ring.AVAIL_ENTRY_SIZE;
    this.#ram.set(entry, 2, head);
    this.next = (this.next + 1) & 0xffff;
    this.#ram.set(driver + ring.AVAIL_IDX, 2, this.next);
    return entry;
  }

  #addPacked(pieces: readonly Piece[], direct: number, table: number, inRing: number): Written {
    const id = this.#free.pop()!;
    const descriptors: number[] = [];
    for (let i = 0; i < inRing; i++) {
      const at = this.places.desc + this.next * DESC_SIZE;
      descriptors.push(at);
      const turn = this.wrap === 1 ? ring.VIRTQ_DESC_F_AVAIL : ring.VIRTQ_DESC_F_USED;
      const more = i + 1 < inRing ? ring.VIRTQ_DESC_F_NEXT : 0;
      if (i === direct) this.#putTable(at, pieces.length - direct, table, turn);
      else this.#put(at, pieces[i]!, turn | more);
      this.#ram.set(at + ring.PACKED_DESC_ID, 2, id);
      this.next += 1;
      if (this.next === this.size) [this.next, this.wrap] = [0, this.wrap ^ 1];
    }
    for (let i = direct; i < pieces.length; i++) {
      const at = table + (i - direct) * DESC_SIZE;
      this.#put(at, pieces[i]!, 0);
      descriptors.push(at);
    }
    this.#slots += inRing;
    this.#held.set(id, descriptors.slice(0, inRing));
    return { id, descriptors, tableFrom: inRing, entry: descriptors[0]! };
  }

  #put(at: number, piece: Piece, flags: number): void {
    const ram = this.#ram;
    ram.setU64(at + ring.DESC_ADDRESS, piece.address);
    ram.set(at + ring.DESC_LENGTH, 4, piece.length);
    const all = flags | (piece.writable ? ring.VIRTQ_DESC_F_WRITE : 0);
    ram.set(at + (this.packed ? ring.PACKED_DESC_FLAGS : ring.SPLIT_DESC_FLAGS), 2, all);
  }

  #putTable(at: number, entries: number, table: number, flags = 0): void {
    const address = this.#ram.addressOf(table);
    const piece = { address, length: entries * DESC_SIZE, writable: false };
    this.#put(at, piece, flags | ring.VIRTQ_DESC_F_INDIRECT);
  }
}
