/**
 * A guest's memory and its chains as the model of a device sees them: written from VIRTIO 1.3, 2.7
 * and 2.8 and the rules of assembly/ring/walk.ts, as plainly as possible.
 */

import * as abi from '../../src/abi/virtio-device.ts';
import * as ring from '../../src/abi/virtio-ring.ts';

/** Guest addresses, and where they lie in the model's bytes. */
export interface ModelRegion {
  readonly start: bigint;
  readonly size: number;
  readonly at: number;
}

/** Bytes of the guest's memory. */
export interface Piece {
  readonly at: number;
  readonly length: number;
}

/** A descriptor of either ring; `link` is `next` (split) or the buffer id (packed). */
interface Descriptor {
  readonly address: bigint;
  readonly length: number;
  readonly flags: number;
  readonly link: number;
}

/** A sound chain. */
export interface Walked {
  readonly readable: readonly Piece[];
  readonly writable: readonly Piece[];
  /** Packed: descriptors of the ring, and the buffer id. */
  readonly slots: number;
  readonly id: number;
  /** Several regions hold its last buffer. */
  readonly isCut: boolean;
}

/** Why a chain breaks its queue, and at which descriptor. */
export interface Fault {
  readonly error: number;
  readonly at: number;
}

const CHAIN_BYTES = 0xffff_ffff;
const TABLE_ENTRIES = 65535;

/** The bytes of a guest, by offset and by guest address. */
export class ModelGuest {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly regions: readonly ModelRegion[];

  constructor(bytes: Uint8Array, regions: readonly ModelRegion[]) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.regions = regions;
  }

  /** Where bytes lie that must be in one region. */
  place(address: bigint, length: number): number | undefined {
    const pieces = this.pieces(address, length);
    return pieces?.length === 1 ? pieces[0]!.at : undefined;
  }

  /** Where bytes lie, region by region; undefined when some are in none. */
  pieces(address: bigint, length: number): Piece[] | undefined {
    const pieces: Piece[] = [];
    for (let next = address, left = length; left > 0;) {
      const region = this.regions.find(
        ({ start, size }) => next >= start && next < start + BigInt(size),
      );
      if (region === undefined) return undefined;
      const offset = Number(next - region.start);
      const piece = Math.min(left, region.size - offset);
      pieces.push({ at: region.at + offset, length: piece });
      left -= piece;
      // No region begins at 0 after one that ends at 2^64: addresses do not wrap.
      next += BigInt(piece);
    }
    return pieces;
  }

  /** Reads a descriptor of a ring or a table. */
  descriptor(at: number, packed: boolean): Descriptor {
    const first = this.view.getUint16(at + ring.SPLIT_DESC_FLAGS, true);
    const second = this.view.getUint16(at + ring.SPLIT_DESC_NEXT, true);
    return {
      address: this.view.getBigUint64(at + ring.DESC_ADDRESS, true),
      length: this.view.getUint32(at + ring.DESC_LENGTH, true),
      flags: packed ? second : first,
      link: packed ? first : second,
    };
  }
}

/** Walks a split chain or a packed list. */
export class Walk {
  readonly #guest: ModelGuest;
  readonly #packed: boolean;
  readonly #indirect: boolean;
  readonly #readable: Piece[] = [];
  readonly #writable: Piece[] = [];
  #descriptors = 0;
  #bytes = 0;
  #isCut = false;
  #wasWritable = false;

  constructor(guest: ModelGuest, packed: boolean, indirect: boolean) {
    this.#guest = guest;
    this.#packed = packed;
    this.#indirect = indirect;
  }

  /** A chain of a split ring: its table is at `table`. */
  split(table: number, size: number, head: number): Walked | Fault {
    return this.#linked(table, size, head, false) ?? this.#found(0, 0, head);
  }

  /** A list of a packed ring. */
  packed(table: number, size: number, slot: number): Walked | Fault {
    for (let slots = 1; slots <= size; slots++) {
      const at = (slot + slots - 1) % size;
      const descriptor = this.#guest.descriptor(table + at * ring.DESC_SIZE, true);
      if ((descriptor.flags & ring.VIRTQ_DESC_F_INDIRECT) !== 0) {
        // 2.8.7: a list is direct, or one indirect descriptor.
        if (slots > 1) return { error: abi.RING_ERROR_INDIRECT_NEXT, at };
        return this.#table(descriptor, at) ?? this.#found(1, descriptor.link, slot);
      }
      const fault = this.#add(descriptor, at);
      if (fault !== undefined) return fault;
      const goesOn = (descriptor.flags & ring.VIRTQ_DESC_F_NEXT) !== 0;
      if (!goesOn) return this.#found(slots, descriptor.link, slot);
    }
    return { error: abi.RING_ERROR_LOOP, at: slot };
  }

  #linked(table: number, entries: number, first: number, nested: boolean): Fault | undefined {
    let at = first;
    for (let steps = 0; steps < entries; steps++) {
      const descriptor = this.#guest.descriptor(table + at * ring.DESC_SIZE, false);
      if ((descriptor.flags & ring.VIRTQ_DESC_F_INDIRECT) !== 0) {
        if (nested) return { error: abi.RING_ERROR_INDIRECT_NESTED, at };
        return this.#table(descriptor, at);
      }
      const fault = this.#add(descriptor, at);
      if (fault !== undefined) return fault;
      if ((descriptor.flags & ring.VIRTQ_DESC_F_NEXT) === 0) return undefined;
      at = descriptor.link;
      if (at >= entries) return { error: abi.RING_ERROR_NEXT, at };
    }
    return { error: abi.RING_ERROR_LOOP, at };
  }

  /** 2.7.5.3, 2.8.7. */
  #table({ address, length, flags }: Descriptor, at: number): Fault | undefined {
    if (!this.#indirect) return { error: abi.RING_ERROR_INDIRECT_FEATURE, at };
    if ((flags & ring.VIRTQ_DESC_F_NEXT) !== 0) return { error: abi.RING_ERROR_INDIRECT_NEXT, at };
    const entries = length / ring.DESC_SIZE;
    if (!Number.isInteger(entries) || entries === 0 || entries > TABLE_ENTRIES) {
      return { error: abi.RING_ERROR_INDIRECT_LENGTH, at };
    }
    const table = this.#guest.place(address, length);
    if (table === undefined) return { error: abi.RING_ERROR_RANGE, at };
    if (!this.#packed) return this.#linked(table, entries, 0, true);
    for (let index = 0; index < entries; index++) {
      const entry = this.#guest.descriptor(table + index * ring.DESC_SIZE, true);
      const fault = this.#add(entry, index);
      if (fault !== undefined) return fault;
    }
    return undefined;
  }

  #add({ address, length, flags }: Descriptor, at: number): Fault | undefined {
    this.#descriptors++;
    if (this.#descriptors > abi.CHAIN_DESCRIPTORS) return { error: abi.RING_ERROR_DESCRIPTORS, at };
    const writable = (flags & ring.VIRTQ_DESC_F_WRITE) !== 0;
    if (this.#wasWritable && !writable) return { error: abi.RING_ERROR_ORDER, at };
    this.#wasWritable = writable;
    if (length === 0) return undefined;
    this.#bytes += length;
    const pieces = this.#guest.pieces(address, length);
    if (pieces === undefined) return { error: abi.RING_ERROR_RANGE, at };
    this.#isCut = pieces.length > 1;
    (writable ? this.#writable : this.#readable).push(...pieces);
    const segments = this.#readable.length + this.#writable.length;
    return segments > abi.CHAIN_DESCRIPTORS ? { error: abi.RING_ERROR_DESCRIPTORS, at } : undefined;
  }

  /** The sum of the lengths is looked at last. */
  #found(slots: number, id: number, head: number): Walked | Fault {
    if (this.#bytes > CHAIN_BYTES) return { error: abi.RING_ERROR_BYTES, at: head };
    return {
      readable: this.#readable,
      writable: this.#writable,
      slots,
      id,
      isCut: this.#isCut,
    };
  }
}

/** Bytes of some pieces. */
export function bytesIn(pieces: readonly Piece[]): number {
  return pieces.reduce((total, { length }) => total + length, 0);
}
