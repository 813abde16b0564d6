/**
 * Chains as the standard describes them, read slowly and plainly: VIRTIO 1.3, 2.7 and 2.8. What the
 * engine says of a chain is held against this.
 */

import * as abi from '../../../src/abi/virtio-device.ts';
import * as ring from '../../../src/abi/virtio-ring.ts';
import type { Ram, Range } from './ram.ts';
import type { Ring } from './ring.ts';

/** What a chain is. */
export interface Chain {
  /** RING_ERROR_*, or 0. */
  readonly error: number;
  /** Head, or buffer id. */
  readonly id: number;
  /** Packed: entries of the ring. */
  readonly slots: number;
  readonly readable: readonly Range[];
  readonly writable: readonly Range[];
  readonly readableBytes: number;
  readonly writableBytes: number;
  /** Lengths of the first and the last buffer that is not empty. */
  readonly firstLength: number;
  readonly lastLength: number;
}

const MAX_U32 = 0xffff_ffff;
const INDIRECT_MAX = 65535;

/** Collects the buffers of a chain. */
class Trail {
  error = 0;
  slots = 0;
  readonly readable: Range[] = [];
  readonly writable: Range[] = [];
  readableBytes = 0;
  writableBytes = 0;
  firstLength = 0;
  lastLength = 0;
  readonly #ram: Ram;
  #descriptors = 0;
  #hasWritable = false;

  constructor(ram: Ram) {
    this.#ram = ram;
  }

  /** Adds a buffer; false when something is wrong with it. */
  add(address: bigint, length: number, flags: number): boolean {
    this.#descriptors += 1;
    if (this.#descriptors > abi.CHAIN_DESCRIPTORS) return this.fail(abi.RING_ERROR_DESCRIPTORS);
    const isWritable = (flags & ring.VIRTQ_DESC_F_WRITE) !== 0;
    if (this.#hasWritable && !isWritable) return this.fail(abi.RING_ERROR_ORDER);
    this.#hasWritable = isWritable;
    if (length === 0) return true;
    if (this.firstLength === 0) this.firstLength = length;
    this.lastLength = length;
    if (isWritable) this.writableBytes += length;
    else this.readableBytes += length;
    const at = this.#ram.atOf(address);
    const ranges = at < 0 ? undefined : this.#ram.rangesOf(at, length);
    if (ranges === undefined) return this.fail(abi.RING_ERROR_RANGE);
    (isWritable ? this.writable : this.readable).push(...ranges);
    const segments = this.readable.length + this.writable.length;
    return segments <= abi.CHAIN_DESCRIPTORS || this.fail(abi.RING_ERROR_DESCRIPTORS);
  }

  fail(error: number): false {
    this.error = error;
    return false;
  }
}

/** The chain at a position of a ring: an available index, or a slot. */
export function walk(ram: Ram, where: Ring, position: number): Chain {
  const trail = new Trail(ram);
  const id = where.packed
    ? walkPacked(ram, where, position, trail)
    : walkSplit(ram, where, position, trail);
  const isLong = trail.readableBytes + trail.writableBytes > MAX_U32;
  if (trail.error === 0 && isLong) trail.fail(abi.RING_ERROR_BYTES);
  const { error, slots, readable, writable, readableBytes, writableBytes } = trail;
  const { firstLength, lastLength } = trail;
  const buffers = { readable, writable, readableBytes, writableBytes, firstLength, lastLength };
  return { error, id, slots, ...buffers };
}

function walkSplit(ram: Ram, where: Ring, position: number, trail: Trail): number {
  const slot = position % where.size;
  const entry = where.places.driver + ring.AVAIL_RING + slot * ring.AVAIL_ENTRY_SIZE;
  const head = ram.get(entry, 2);
  if (head >= where.size) trail.fail(abi.RING_ERROR_HEAD);
  else
    follow(ram, where, trail, {
      table: where.places.desc,
      entries: where.size,
      head,
      isNested: false,
    });
  return head;
}

/** The descriptors of a ring, or those of an indirect table. */
interface Table {
  readonly table: number;
  readonly entries: number;
  readonly head: number;
  readonly isNested: boolean;
}

/** Follows `next` in a table. */
function follow(
  ram: Ram,
  where: Ring,
  trail: Trail,
  { table, entries, head, isNested }: Table,
): void {
  for (let index = head, steps = 0; ; steps++) {
    if (steps === entries) {
      trail.fail(abi.RING_ERROR_LOOP);
      return;
    }
    const at = table + index * ring.DESC_SIZE;
    const flags = ram.get(at + ring.SPLIT_DESC_FLAGS, 2);
    if ((flags & ring.VIRTQ_DESC_F_INDIRECT) !== 0) {
      if (isNested) trail.fail(abi.RING_ERROR_INDIRECT_NESTED);
      else followTable(ram, where, trail, at, flags);
      return;
    }
    if (!addAt(ram, trail, at, flags)) return;
    if ((flags & ring.VIRTQ_DESC_F_NEXT) === 0) return;
    index = ram.get(at + ring.SPLIT_DESC_NEXT, 2);
    if (index >= entries) {
      trail.fail(abi.RING_ERROR_NEXT);
      return;
    }
  }
}

function addAt(ram: Ram, trail: Trail, at: number, flags: number): boolean {
  return trail.add(ram.getU64(at + ring.DESC_ADDRESS), ram.get(at + ring.DESC_LENGTH, 4), flags);
}

function walkPacked(ram: Ram, where: Ring, position: number, trail: Trail): number {
  for (let slot = position; ; slot = (slot + 1) % where.size) {
    const at = where.places.desc + slot * ring.DESC_SIZE;
    const flags = ram.get(at + ring.PACKED_DESC_FLAGS, 2);
    const id = ram.get(at + ring.PACKED_DESC_ID, 2);
    trail.slots += 1;
    if ((flags & ring.VIRTQ_DESC_F_INDIRECT) !== 0) {
      if (trail.slots > 1) trail.fail(abi.RING_ERROR_INDIRECT_NEXT);
      else followTable(ram, where, trail, at, flags);
      return id;
    }
    if (!addAt(ram, trail, at, flags) || (flags & ring.VIRTQ_DESC_F_NEXT) === 0) return id;
    if (trail.slots === where.size) {
      trail.fail(abi.RING_ERROR_LOOP);
      return id;
    }
  }
}

function followTable(ram: Ram, where: Ring, trail: Trail, at: number, flags: number): void {
  const length = ram.get(at + ring.DESC_LENGTH, 4);
  const entries = length / ring.DESC_SIZE;
  const table = ram.atOf(ram.getU64(at + ring.DESC_ADDRESS));
  if ((where.flags & abi.QUEUE_INDIRECT) === 0) trail.fail(abi.RING_ERROR_INDIRECT_FEATURE);
  else if ((flags & ring.VIRTQ_DESC_F_NEXT) !== 0) trail.fail(abi.RING_ERROR_INDIRECT_NEXT);
  else if (!Number.isInteger(entries) || entries === 0 || entries > INDIRECT_MAX) {
    trail.fail(abi.RING_ERROR_INDIRECT_LENGTH);
  } else if (table < 0 || ram.rangesOf(table, length)?.length !== 1) {
    trail.fail(abi.RING_ERROR_RANGE);
  } else if (!where.packed) follow(ram, where, trail, { table, entries, head: 0, isNested: true });
  else {
    for (let index = 0; index < entries; index++) {
      const entry = table + index * ring.DESC_SIZE;
      if (!addAt(ram, trail, entry, ram.get(entry + ring.PACKED_DESC_FLAGS, 2))) return;
    }
  }
}
