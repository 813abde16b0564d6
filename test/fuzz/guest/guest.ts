/** The guest of a program: what it makes available, and what it does to its memory meanwhile. */

import * as abi from '../../../src/abi/virtio-device.ts';
import * as ring from '../../../src/abi/virtio-ring.ts';
import { damage, isDamage } from './damage.ts';
import { parameter, type Setup } from './input.ts';
import { BUFFERS, LONG, TABLES } from './layout.ts';
import type { Ram } from './ram.ts';
import { type Piece, Requests } from './request.ts';
import type { Ring } from './ring.ts';
import type { Watch } from './watch.ts';

/** Bits of the parameter that says how a chain lies in its ring. */
const MODE_DIRECT = 0;
const MODE_INDIRECT = 1;
const MODE_MIXED = 2;
const MODE_UNASKED = 0x80;

/** See the head of the file. */
export class Guest {
  /** Chains made available. */
  chains = 0;
  readonly #ram: Ram;
  readonly #watch: Watch;
  readonly #requests: Requests;
  #tables = TABLES;

  constructor(ram: Ram, setup: Setup, watch: Watch) {
    this.#ram = ram;
    this.#watch = watch;
    this.#requests = new Requests(ram, setup);
  }

  /** Makes the chain that an action describes available, `count` times. */
  makeChains(action: Uint8Array, index: number, count: number): void {
    const where = this.#watch.queues[index]?.ring;
    if (where === undefined) return;
    if (this.#watch.queues.every((queue) => queue.ring?.isIdle !== false)) {
      this.#requests.release();
      this.#tables = TABLES;
    }
    const pieces = this.#requests.make(action);
    if (pieces === undefined) return;
    const mode = parameter(action, 5);
    const direct = directOf(mode, where, pieces);
    const table = this.#tables;
    if (direct < pieces.length) {
      this.#tables += (pieces.length - direct) * ring.DESC_SIZE;
      if (this.#tables > BUFFERS) return;
    }
    for (let left = count; left > 0; left--) {
      if (!this.#make(action, where, pieces, direct, table, mode)) return;
    }
  }

  #make(
    action: Uint8Array,
    where: Ring,
    pieces: readonly Piece[],
    direct: number,
    table: number,
    mode: number,
  ): boolean {
    const written = where.add(pieces, direct, table, (mode & 0x40) !== 0);
    if (written === undefined) return false;
    this.chains += 1;
    const knob = parameter(action, 6);
    if (!isDamage(knob)) return true;
    this.#watch.certainty.blurred = true;
    damage(knob, { ram: this.#ram, ring: where, written, which: parameter(action, 7) });
    return true;
  }

  /** Changes two bytes of guest memory. */
  poke(action: Uint8Array, index: number): void {
    const where = this.#watch.queues[index]?.ring;
    if (where === undefined) return;
    const at = parameter(action, 2) | (parameter(action, 3) << 8);
    const value = parameter(action, 4) | (parameter(action, 5) << 8);
    const { desc, driver, device } = where.places;
    const targets = [
      desc + (at % (where.size * ring.DESC_SIZE)),
      driver + ring.AVAIL_RING + 2 * (at % where.size),
      driver + ring.AVAIL_IDX,
      BUFFERS + at,
      TABLES + (at % (BUFFERS - TABLES)),
      LONG + (at % (TABLES - LONG)),
      device + (at & 7),
      driver + (at & 3),
    ];
    this.#watch.certainty.blurred = true;
    this.#ram.set(targets[parameter(action, 1) & 7]! & ~1, 2, value);
  }

  /** Says when it wants interrupts. */
  setEvent(action: Uint8Array, index: number): void {
    const queue = this.#watch.queues[index];
    const where = queue?.ring;
    if (queue === undefined || where === undefined) return;
    const { driver } = where.places;
    const ahead = parameter(action, 2) - 4;
    const flags = parameter(action, 1);
    if (where.packed) {
      this.#ram.set(driver + ring.EVENT_OFFSET, 2, (queue.used + ahead + 65536) & 0xffff);
      this.#ram.set(driver + ring.EVENT_FLAGS, 2, flags & 3);
      return;
    }
    this.#ram.set(driver + ring.AVAIL_FLAGS, 2, flags & 1);
    const event = driver + ring.AVAIL_RING + where.size * ring.AVAIL_ENTRY_SIZE;
    this.#ram.set(event, 2, (queue.used + ahead + 65536) & 0xffff);
  }
}

/** How many buffers lie in the ring itself. */
function directOf(mode: number, where: Ring, pieces: readonly Piece[]): number {
  const isUnasked = (mode & MODE_UNASKED) !== 0;
  if ((where.flags & abi.QUEUE_INDIRECT) === 0 && !isUnasked) return pieces.length;
  switch (mode & 3) {
    case MODE_DIRECT:
      return pieces.length;
    case MODE_INDIRECT:
      return 0;
    case MODE_MIXED:
      // A packed list has either.
      return where.packed && !isUnasked ? 0 : Math.min(pieces.length, 1 + ((mode >> 2) & 3));
    default:
      return 0;
  }
}
