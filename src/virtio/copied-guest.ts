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
 * Z3  What is written goes out before the used entry that tells of it, and a packed ring is read
 *     again before its used entries are written, as the driver may have added to it since.
 */
import { REGION_SIZE } from '../abi/region.ts';
import { SEGMENT_ADDRESS, SEGMENT_LENGTH, SEGMENT_SIZE } from '../abi/request.ts';
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

/** The end of the line of chains that wait to be landed. */
const NO_CHAIN = 0xffff_ffff;
const HIGH_WORD = 2 ** 32;

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
export class CopiedGuest {
  readonly #device: EngineDevice;
  readonly #guest: Uint8Array;
  /** Place of the mirror in the engine's memory. */
  readonly #mirror: number;

  /** Over a device with virtqueues, before any of them is attached. */
  constructor(device: EngineDevice, guest: Uint8Array, mirror: number) {
    this.#device = device;
    this.#guest = guest;
    this.#mirror = mirror;
    const flags = REGION_SIZE + abi.DEVICE_FLAGS;
    device.engine.store(flags, device.engine.load(flags) | abi.DEVICE_COPIED);
  }

  /** Before a pump: copies what it will read of the queues that were notified of. */
  copyIn(): void {
    for (let queue = 0; queue < this.#device.engine.queues; queue++) {
      if (!this.#isKicked(queue) || this.#state(queue) !== abi.QUEUE_ON) continue;
      this.#checkAttached();
      const ring = this.#ringOf(queue);
      this.#in(ring.desc, ring.descBytes);
      this.#in(ring.driver, ring.driverBytes);
      this.#copyChainsIn(queue);
    }
  }

  /** After a pump: copies out what was written, and returns the chains. */
  land(): void {
    const queues = this.#ringsInUse();
    if (queues.length > 0) this.#checkAttached();
    const { exports, base } = this.#device.engine;
    if (this.#word(abi.DEVICE_LANDED) !== NO_CHAIN) {
      for (const ring of queues) this.#refresh(ring);
      while (this.#word(abi.DEVICE_LANDED) !== NO_CHAIN) {
        this.#copyChainOut();
        exports.landChain(base);
      }
      exports.publishLanded(base);
      for (const ring of queues) if (ring.packed) this.#out(ring.desc, ring.descBytes);
    }
    for (const ring of queues) this.#out(ring.device, ring.deviceBytes);
  }

  /** The parts that decide about used entries and interrupts, as they are now (Z3). */
  #refresh(ring: Ring): void {
    if (ring.packed) this.#in(ring.desc, ring.descBytes);
    this.#in(ring.driver, ring.driverBytes);
  }

  #copyChainsIn(queue: number): void {
    const { exports, base } = this.#device.engine;
    exports.beginPeek(base, queue);
    for (;;) {
      let entries = exports.peekChain(base, queue, 0) >>> 0;
      if (entries === abi.PEEK_TABLE) {
        this.#copyList(1, (address, length) => this.#in(address, length));
        entries = exports.peekChain(base, queue, 1) >>> 0;
      }
      if (entries >= abi.PEEK_TABLE) return;
      this.#copyList(entries, (address, length) => this.#in(address, length));
    }
  }

  #copyChainOut(): void {
    const { exports, base } = this.#device.engine;
    const entries = exports.listLanded(base) >>> 0;
    this.#copyList(entries, (address, length) => this.#out(address, length));
  }

  /** Calls back with the guest address and length of each entry of the engine's list. */
  #copyList(entries: number, copy: (address: number, lengthBytes: number) => void): void {
    const { engine } = this.#device;
    for (let entry = 0; entry < entries; entry++) {
      const at = REGION_SIZE + abi.DEVICE_LIST + entry * SEGMENT_SIZE;
      copy(engine.load(at + SEGMENT_ADDRESS) - this.#mirror, engine.load(at + SEGMENT_LENGTH));
    }
  }

  #in(address: number, lengthBytes: number): void {
    const bytes = this.#guest.subarray(address, address + lengthBytes);
    this.#device.bytes.set(bytes, this.#mirror + address);
  }

  #out(address: number, lengthBytes: number): void {
    const from = this.#mirror + address;
    this.#guest.set(this.#device.bytes.subarray(from, from + lengthBytes), address);
  }

  /** A guest that has been transferred to another thread has no bytes left here. */
  #checkAttached(): void {
    if (this.#guest.byteLength > 0) return;
    throw new SluiceError(
      'ERR_SLUICE_CLOSED',
      "the guest's memory is detached: it was transferred or resized; close the device first",
    );
  }

  /** The rings that used entries may go to. */
  #ringsInUse(): Ring[] {
    const rings: Ring[] = [];
    for (let queue = 0; queue < this.#device.engine.queues; queue++) {
      const state = this.#state(queue);
      if (state !== abi.QUEUE_OFF && state !== abi.QUEUE_DEAD) rings.push(this.#ringOf(queue));
    }
    return rings;
  }

  /** What was attached: the words of a queue change only while it is off. */
  #ringOf(queue: number): Ring {
    const at = abi.DEVICE_QUEUES + queue * abi.QUEUE_STRIDE;
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
    return this.#word(abi.DEVICE_QUEUES + queue * abi.QUEUE_STRIDE + abi.QUEUE_STATE);
  }

  #address(offset: number): number {
    return this.#word(offset) + this.#word(offset + 4) * HIGH_WORD;
  }

  #word(offset: number): number {
    return this.#device.engine.load(REGION_SIZE + offset);
  }
}
