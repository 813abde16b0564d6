/**
 * A guest whose memory the engine cannot reach: an ArrayBuffer that is in no WebAssembly memory.
 * The engine works on a mirror of it, of which only what is in use is kept equal:
 *
 *     before a pump   guest ─▶ mirror   rings of queues that were notified of, and of each chain
 *                                       that is available its indirect table and what is read
 *     after a pump    mirror ─▶ guest   what decided chains have written, then their used entries
 *
 * Z1  The guest does not run meanwhile: all of this is within one call. Shared memory, whose guest
 *     does, has to be a WebAssembly.Memory.
 * Z2  Nothing reaches the guest for a queue that was reset.
 * Z3  One pump copies in a bounded number of bytes and chains, and the engine takes no others.
 * Z4  What is written goes out before the used entry that tells of it, and a packed ring is read
 *     again before its used entries are written, as the driver may have added to it since.
 */
import { MAX_TRANSFER_BYTES } from '../abi/limits.ts';
import { REGION_SIZE } from '../abi/region.ts';
import * as abi from '../abi/virtio-device.ts';
import {
  AVAIL_ENTRY_SIZE,
  DESC_SIZE,
  EVENT_SIZE,
  RING_EXTRA_BYTES,
  USED_ELEMENT_SIZE,
} from '../abi/virtio-ring.ts';
import type { EngineDevice } from '../engine-device.ts';
import { SluiceError } from '../errors.ts';
import { eachListed, type EachRange, type GuestSide, hasLanded, setDeviceFlags } from './landed.ts';

const HIGH_WORD = 2 ** 32;
/** What is copied in for one pump: so much, and the rest of the chain that goes past it. */
const COPY_BYTES = 16 * 1024 * 1024;
/** Chains of a queue that are copied in for one pump. */
const CHAINS_AT_ONCE = 128;

/** A queue's ring, as it was attached: guest addresses, and sizes in bytes. */
interface Ring {
  readonly packed: boolean;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
  readonly descBytes: number;
  readonly driverBytes: number;
  readonly deviceBytes: number;
}

/** See the head of the file. The guest's address 0 is its first byte. */
export class CopiedGuest implements GuestSide {
  readonly #device: EngineDevice;
  readonly #guest: Uint8Array;
  /** Place of the mirror in the engine's memory. */
  readonly #mirror: number;
  /** Queues that the last pump has looked at. */
  readonly #looked = new Set<number>();

  /** Over a device with virtqueues, before any of them is attached. */
  constructor(device: EngineDevice, guest: Uint8Array, mirror: number) {
    this.#device = device;
    this.#guest = guest;
    this.#mirror = mirror;
    setDeviceFlags(device, abi.DEVICE_COPIED);
  }

  /** A queue was attached: the mirror of its ring is what the ring is. */
  attached(queue: number): void {
    const ring = this.#ringOf(queue);
    this.#in(ring.desc, ring.descBytes);
    this.#in(ring.driver, ring.driverBytes);
    this.#in(ring.device, ring.deviceBytes);
  }

  /** Before a pump: copies what it will read of the queues that were notified of. */
  copyIn(): void {
    const { engine } = this.#device;
    this.#looked.clear();
    const isRunning = (this.#word(abi.DEVICE_FLAGS) & abi.DEVICE_RUNNING) !== 0;
    if (!isRunning || this.#word(abi.DEVICE_HELD) > 0) return;
    let budget = COPY_BYTES;
    for (let queue = 0; queue < engine.queues; queue++) {
      if (!this.#isKicked(queue) || this.#state(queue) !== abi.QUEUE_ON) continue;
      const ring = this.#ringOf(queue);
      this.#in(ring.desc, ring.descBytes);
      this.#in(ring.driver, ring.driverBytes);
      this.#looked.add(queue);
      budget = this.#copyChainsIn(queue, budget);
    }
  }

  /** After a pump: copies out what was written, and returns the chains. */
  land(): void {
    const { engine } = this.#device;
    const { exports, base } = engine;
    const isLanding = hasLanded(engine);
    const queues = this.#ringsInUse(isLanding);
    if (isLanding) {
      for (const ring of queues) this.#refresh(ring);
      for (; hasLanded(engine); exports.landChain(base)) this.#copyChainOut();
      exports.publishLanded(base);
      for (const ring of queues) if (ring.packed) this.#out(ring.desc, ring.descBytes);
    }
    for (const ring of queues) this.#out(ring.device, ring.deviceBytes);
  }

  /** The parts that decide about used entries and interrupts, as they are now (Z4). */
  #refresh(ring: Ring): void {
    if (ring.packed) this.#in(ring.desc, ring.descBytes);
    this.#in(ring.driver, ring.driverBytes);
  }

  /** Copies chains in and says how many the engine may take; returns what is left of `budget`. */
  #copyChainsIn(queue: number, budget: number): number {
    const { exports, base } = this.#device.engine;
    let chains = 0;
    let left = budget;
    exports.beginPeek(base, queue);
    for (; left > 0 && chains < CHAINS_AT_ONCE; chains++) {
      let entries = exports.peekChain(base, queue, 0) >>> 0;
      if (entries === abi.PEEK_TABLE) {
        left -= this.#copyListIn(1);
        entries = exports.peekChain(base, queue, 1) >>> 0;
      }
      if (entries >= abi.PEEK_TABLE) break;
      left -= this.#copyListIn(entries);
    }
    // What ends the list is for the engine to judge: a chain that breaks the queue is taken too.
    const limit = left > 0 && chains < CHAINS_AT_ONCE ? chains + 1 : chains;
    this.#device.engine.store(REGION_SIZE + queueAt(queue) + abi.QUEUE_COPIED, limit);
    return left;
  }

  /** Copies the engine's list in; returns its bytes. A chain that is too long is refused anyway. */
  #copyListIn(entries: number): number {
    let bytes = entries;
    this.#copyList(entries, (address, length) => {
      if (bytes < MAX_TRANSFER_BYTES) this.#in(address, length);
      bytes += length;
    });
    return Math.min(bytes, MAX_TRANSFER_BYTES);
  }

  #copyChainOut(): void {
    const { exports, base } = this.#device.engine;
    const entries = exports.listLanded(base) >>> 0;
    this.#copyList(entries, (address, length) => this.#out(address, length));
  }

  /** Calls back with the guest address and length of each entry of the engine's list. */
  #copyList(entries: number, copy: EachRange): void {
    eachListed(this.#device.engine, entries, (place, lengthBytes) =>
      copy(place - this.#mirror, lengthBytes),
    );
  }

  #in(address: number, lengthBytes: number): void {
    const bytes = this.#guest.subarray(address, address + lengthBytes);
    this.#device.bytes.set(bytes, this.#mirror + address);
  }

  #out(address: number, lengthBytes: number): void {
    const from = this.#mirror + address;
    this.#guest.set(this.#device.bytes.subarray(from, from + lengthBytes), address);
  }

  /** The rings that may have been written: all when chains land, else those looked at. */
  #ringsInUse(isLanding: boolean): Ring[] {
    const rings: Ring[] = [];
    for (let queue = 0; queue < this.#device.engine.queues; queue++) {
      const state = this.#state(queue);
      if (state === abi.QUEUE_OFF || state === abi.QUEUE_DEAD) continue;
      if (isLanding || this.#looked.has(queue)) rings.push(this.#ringOf(queue));
    }
    return rings;
  }

  /** What was attached: the words of a queue change only while it is off. */
  #ringOf(queue: number): Ring {
    if (this.#guest.byteLength === 0) {
      throw new SluiceError(
        'ERR_SLUICE_CLOSED',
        "the guest's memory is detached: it was transferred or resized; close the device first",
      );
    }
    const at = queueAt(queue);
    const size = this.#word(at + abi.QUEUE_SIZE);
    const packed = (this.#word(at + abi.QUEUE_FLAGS) & abi.QUEUE_PACKED) !== 0;
    return {
      packed,
      desc: this.#address(at + abi.QUEUE_DESC),
      driver: this.#address(at + abi.QUEUE_DRIVER),
      device: this.#address(at + abi.QUEUE_DEVICE),
      descBytes: size * DESC_SIZE,
      driverBytes: packed ? EVENT_SIZE : RING_EXTRA_BYTES + size * AVAIL_ENTRY_SIZE,
      deviceBytes: packed ? EVENT_SIZE : RING_EXTRA_BYTES + size * USED_ELEMENT_SIZE,
    };
  }

  #isKicked(queue: number): boolean {
    const word = this.#word(abi.DEVICE_KICKED + (queue >>> 5) * 4);
    return (word & (1 << (queue & 31))) !== 0;
  }

  #state(queue: number): number {
    return this.#word(queueAt(queue) + abi.QUEUE_STATE);
  }

  #address(offset: number): number {
    return this.#word(offset) + this.#word(offset + 4) * HIGH_WORD;
  }

  #word(offset: number): number {
    return this.#device.engine.load(REGION_SIZE + offset);
  }
}

/** Where the words of a queue are in the device. */
function queueAt(queue: number): number {
  return abi.DEVICE_QUEUES + queue * abi.QUEUE_STRIDE;
}
