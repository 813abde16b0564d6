/**
 * What the host of a fuzzed device does beside pumping: queues on and off, memory in and out,
 * errors looked at, and what a copied guest needs. Each answer of the engine is held against what
 * is known.
 */

import * as abi from '../../../src/abi/virtio-device.ts';
import { OP_RESET_QUEUE, SEGMENT_ADDRESS, SEGMENT_LENGTH } from '../../../src/abi/request.ts';
import type { EngineExports } from '../../support/engine.ts';
import { Violation } from '../ledger.ts';
import { Attacher } from './attach.ts';
import type { Disk } from './disk.ts';
import { parameter, type Setup } from './input.ts';
import { BUFFERS, DEVICE, HOST_BUFFERS, MEMORY_BYTES, RAM, REGION } from './layout.ts';
import { type Ram, type Region } from './ram.ts';
import type { QueueWatch } from './queue-watch.ts';
import type { Watch } from './watch.ts';

const NO_CHAIN = 0xffff_ffff;
/** Where a second name of some of the RAM begins. */
const ALIAS_AT = 0x100_0000;
/** With so little in flight nothing keeps a chain from being taken. */
const FEW_CHAINS = 100;
const FEW_REQUESTS = 900;

/** See the head of the file. */
export class Device {
  readonly #exports: EngineExports;
  readonly #view: DataView;
  readonly #ram: Ram;
  readonly #setup: Setup;
  readonly #watch: Watch;
  readonly #attacher: Attacher;
  /** What was unmapped. */
  readonly #gone: Region[] = [];
  #stops: boolean;

  constructor(exports: EngineExports, view: DataView, ram: Ram, setup: Setup, watch: Watch) {
    this.#exports = exports;
    this.#view = view;
    this.#ram = ram;
    this.#setup = setup;
    this.#watch = watch;
    this.#attacher = new Attacher(exports, view, ram, setup);
    this.#stops = false;
    this.#store(abi.DEVICE_FLAGS, setup.deviceFlags);
    this.#store(abi.DEVICE_BLOCK_SECTORS, setup.blockSectors);
    this.#store(abi.DEVICE_DISCARD_SECTORS, setup.rangeSectors);
    this.#store(abi.DEVICE_DISCARD_SEGMENTS, setup.rangeSegments);
    this.#store(abi.DEVICE_ZEROES_SECTORS, setup.rangeSectors);
    this.#store(abi.DEVICE_ZEROES_SEGMENTS, setup.rangeSegments);
    this.#setPolicies(setup.readError, setup.writeError);
  }

  #setPolicies(readError: number, writeError: number): void {
    this.#store(abi.DEVICE_READ_ERROR, readError);
    this.#store(abi.DEVICE_WRITE_ERROR, writeError);
    const stops = [readError, writeError].some((one) => (one & 1) !== 0);
    this.#stops = this.#stops || stops;
  }

  #store(offset: number, value: number): void {
    this.#view.setUint32(DEVICE + offset, value, true);
  }

  get #isCopied(): boolean {
    return (this.#setup.deviceFlags & abi.DEVICE_COPIED) !== 0;
  }

  /** Shows a region to the engine; 0, or why not. */
  map({ at, size, place }: Region): number {
    return this.#map(this.#ram.addressOf(at), BigInt(size), place);
  }

  #map(address: bigint, size: bigint, place: number): number {
    const [low, high] = halves(address);
    const [sizeLow, sizeHigh] = halves(size);
    return this.#exports.mapGuest(REGION, low, high, sizeLow, sizeHigh, place) >>> 0;
  }

  #unmap(address: bigint): number {
    return this.#exports.unmapGuest(REGION, ...halves(address)) >>> 0;
  }

  /** Attaches a ring of the setup, with nothing in it. */
  attachFresh(index: number): void {
    this.#attacher.attachFresh(this.#watch.queues[index]!);
  }

  /** Attaches a ring anew, where it was left, or in a way that is refused. */
  attach(action: Uint8Array, index: number): void {
    const queue = this.#watch.queues[index]!;
    const how = parameter(action, 1) & 3;
    if (how === 0 && queue.state === abi.QUEUE_OFF) this.#attacher.attachFresh(queue);
    else if (how === 1 && queue.state === abi.QUEUE_OFF) this.#attacher.attachSaved(queue);
    else this.#attacher.attachBadly(queue, parameter(action, 2));
  }

  /** Pauses a queue, lets it go on, resets it, switches it off. */
  turn(action: Uint8Array, index: number, disk: Disk): void {
    const queue = this.#watch.queues[index]!;
    switch (parameter(action, 1) & 7) {
      case 0:
        this.#setState(queue, abi.QUEUE_PAUSED);
        return;
      case 1:
        this.#setState(queue, abi.QUEUE_ON);
        return;
      case 2:
        if (!this.#setState(queue, abi.QUEUE_DEAD)) return;
        disk.submit({ op: OP_RESET_QUEUE, flags: 0, queue: index + 1, sector: 0, sectors: 0 });
        return;
      case 3:
        this.#detach(queue);
        return;
      case 4:
        this.#setState(queue, parameter(action, 3) % 6);
        return;
      case 5:
        this.#expect('a queue that is none', this.#setAny(parameter(action, 2) | 64), true);
        return;
      case 6:
        this.#dieLanded(queue);
        return;
      default:
        this.#detach(queue);
    }
  }

  /** A chain has landed, its queue dies, and only then used entries are published. */
  #dieLanded(queue: QueueWatch): void {
    if (!this.#isCopied || this.#watch.word(abi.DEVICE_LANDED) === NO_CHAIN) return;
    this.#watch.look();
    this.#exports.landChain(REGION);
    // Its used entry has been written, and nobody has been told.
    this.#ram.changes();
    for (const other of this.#watch.queues) {
      if (other === queue || other.state !== abi.QUEUE_OFF) this.#setState(other, abi.QUEUE_DEAD);
    }
    this.#exports.publishLanded(REGION);
    this.#watch.observe();
  }

  #setAny(index: number): number {
    const code = this.#exports.detachQueue(REGION, index) >>> 0;
    return code === 0 ? 0 : this.#exports.setQueueState(REGION, index, abi.QUEUE_PAUSED) >>> 0;
  }

  #expect(what: string, code: number, refused: boolean): void {
    if (refused !== (code !== 0)) throw new Violation(`${what}: the answer is ${code}`);
  }

  #setState(queue: QueueWatch, next: number): boolean {
    const { state } = queue;
    const turns = state === abi.QUEUE_ON || state === abi.QUEUE_PAUSED;
    const isTurn = next === abi.QUEUE_ON || next === abi.QUEUE_PAUSED;
    const isAllowed = next === abi.QUEUE_DEAD ? state !== abi.QUEUE_OFF : turns && isTurn;
    const code = this.#exports.setQueueState(REGION, queue.index, next) >>> 0;
    this.#expect(`state ${state} to ${next}`, code, !isAllowed);
    if (!isAllowed) return false;
    queue.state = next;
    if (next === abi.QUEUE_DEAD) this.#watch.certainty.clean = false;
    return true;
  }

  #detach(queue: QueueWatch): void {
    const { inFlight } = this.#watch.words(queue.index);
    const { state, ring } = queue;
    const code = this.#exports.detachQueue(REGION, queue.index) >>> 0;
    this.#expect('detachQueue', code, state === abi.QUEUE_ON || inFlight !== 0);
    if (code !== 0 || ring === undefined) return;
    const [nextAvail, nextUsed] = queue.positions();
    const avail = this.#watch.queueWord(queue.index, abi.QUEUE_NEXT_AVAIL);
    const used = this.#watch.queueWord(queue.index, abi.QUEUE_NEXT_USED);
    // A head that broke the queue was taken off the available ring.
    const isTaken = state === abi.QUEUE_BROKEN && avail === ((nextAvail + 1) & 0xffff);
    // A dead one may have landed a chain of which nobody was told.
    const isExact = !this.#watch.certainty.wild && state !== abi.QUEUE_DEAD;
    if (isExact && ((avail !== nextAvail && !isTaken) || used !== nextUsed)) {
      throw new Violation(`detachQueue: ${avail} and ${used}, not ${nextAvail} and ${nextUsed}`);
    }
    this.#attacher.keep(queue, state === abi.QUEUE_DEAD);
    queue.begin(undefined, 0, 0);
  }

  /** Takes regions away, puts them back, or asks for what is refused. */
  remap(action: Uint8Array): void {
    const { regions } = this.#ram;
    const which = parameter(action, 2);
    switch (parameter(action, 1) & 3) {
      case 0: {
        const part = regions[which % Math.max(1, regions.length)];
        if (part !== undefined && this.#removes(part)) this.#gone.push(part);
        return;
      }
      case 1: {
        const part = this.#gone.pop();
        if (part === undefined) return;
        const isThere = regions.some(({ at }) => at === part.at);
        const isFull = regions.length >= abi.GUEST_REGIONS - 1;
        this.#expect('mapGuest', this.map(part), isThere || isFull);
        if (!isThere && !isFull) this.#ram.map(part);
        return;
      }
      case 2:
        this.#mapAlias();
        return;
      default:
        this.#mapBadly(which);
    }
  }

  #removes(part: Region): boolean {
    const isBusy = this.#watch.word(abi.DEVICE_IN_FLIGHT) !== 0 || this.#holdsRing(part);
    const code = this.#unmap(this.#ram.addressOf(part.at));
    this.#expect('unmapGuest', code, isBusy);
    if (!isBusy) this.#ram.unmap(part);
    return !isBusy;
  }

  #holdsRing({ place, size }: Region): boolean {
    return this.#watch.queues.some(({ ring }) => {
      if (ring === undefined) return false;
      const parts = [ring.places.desc, ring.places.driver, ring.places.device];
      return parts.some((at) => {
        const found = this.#ram.placeOf(at);
        return found >= place && found - place < size;
      });
    });
  }

  /** Some of the buffers get a second guest address. */
  #mapAlias(): void {
    const { regions } = this.#ram;
    if (regions.some(({ at }) => at === ALIAS_AT)) return;
    const part = { at: ALIAS_AT, size: 0x1000, place: RAM + BUFFERS };
    const code = this.map(part);
    this.#expect('a second name', code, regions.length >= abi.GUEST_REGIONS - 1);
    this.#watch.certainty.wild = true;
    if (code === 0) this.#ram.map(part);
  }

  #mapBadly(which: number): void {
    const far = this.#ram.addressOf(ALIAS_AT * 2);
    const known = this.#ram.regions[0];
    const attempts: readonly (() => number)[] = [
      () => this.#map(far, 0n, RAM),
      () => this.#map(far, 64n, DEVICE - 32),
      () => this.#map(far, 4096n, HOST_BUFFERS - 0x40_0000),
      () => this.#map(far, 64n, MEMORY_BYTES - 32),
      () => this.#map(2n ** 64n - 16n, 32n, RAM),
      () => this.#map(far, 64n, RAM + 1),
      () => this.#map(far, 2n ** 33n, 0),
      () => this.#unmap(far),
      () => (known === undefined ? 1 : this.#map(this.#ram.addressOf(known.at), 16n, known.place)),
      () => (known === undefined ? 1 : this.#unmap(this.#ram.addressOf(known.at + 1))),
      () => this.#map(far, 2n ** 63n, RAM),
    ];
    this.#expect('mapGuest', attempts[which % attempts.length]!(), true);
  }

  /** Resumes, stops and starts the device, or changes what errors do. */
  change(action: Uint8Array): void {
    const value = parameter(action, 2);
    switch (parameter(action, 1) & 3) {
      case 1:
        this.#store(abi.DEVICE_FLAGS, this.#watch.word(abi.DEVICE_FLAGS) ^ abi.DEVICE_RUNNING);
        return;
      case 2:
        this.#setPolicies(value & 3, (value >> 2) & 3);
        return;
      default:
        this.resume();
    }
  }

  /** What errors have stopped goes on. */
  resume(): void {
    this.#exports.resumeDevice(REGION);
    if (this.#watch.word(abi.DEVICE_HELD) !== 0) throw new Violation('resumeDevice holds back');
  }

  /** Looks at what the device will read, as the host of a copied guest does. */
  peek(chains = 0): void {
    this.#watch.look();
    for (const queue of this.#watch.queues) {
      if (queue.state === abi.QUEUE_ON) this.#peekQueue(queue);
      const words = abi.DEVICE_QUEUES + queue.index * abi.QUEUE_STRIDE;
      this.#store(words + abi.QUEUE_COPIED, chains);
    }
    if (this.#ram.changes().length > 0) throw new Violation('peekChain writes');
  }

  #peekQueue(queue: QueueWatch): void {
    const size = queue.ring?.size ?? 0;
    this.#exports.beginPeek(REGION, queue.index);
    for (let peeked = 0; ; peeked++) {
      if (peeked > size) throw new Violation('peekChain never ends');
      let entries = this.#exports.peekChain(REGION, queue.index, 0) >>> 0;
      if (entries === abi.PEEK_TABLE) {
        this.#checkList(1);
        entries = this.#exports.peekChain(REGION, queue.index, 1) >>> 0;
      }
      const known = queue.waiting[peeked]?.chain;
      if (entries >= abi.PEEK_TABLE) {
        const isLast = known === undefined || known.error !== 0 || queue.overrun;
        const isDue = entries === abi.PEEK_NONE && isLast;
        if (!isDue && !this.#watch.certainty.wild) throw new Violation('peekChain misses a chain');
        return;
      }
      const bytes = this.#checkList(entries);
      if (known?.readableBytes !== bytes && !this.#watch.certainty.wild) {
        throw new Violation(`peekChain lists ${bytes} bytes, not ${known?.readableBytes}`);
      }
    }
  }

  /** The bytes of the engine's list; all of them lie in guest memory. */
  #checkList(entries: number): number {
    let bytes = 0;
    for (let entry = 0; entry < entries; entry++) {
      const at = DEVICE + abi.DEVICE_LIST + entry * 8;
      const place = this.#view.getUint32(at + SEGMENT_ADDRESS, true);
      const length = this.#view.getUint32(at + SEGMENT_LENGTH, true);
      if (!this.#ram.isCovered(place, length)) throw new Violation(`a list names ${place}`);
      bytes += length;
    }
    return bytes;
  }

  /** Returns up to `most` chains of a copied guest. */
  land(most: number): void {
    if (!this.#isCopied) return;
    this.#watch.look();
    for (let left = most; left > 0 && this.#watch.word(abi.DEVICE_LANDED) !== NO_CHAIN; left--) {
      this.#checkList(this.#exports.listLanded(REGION) >>> 0);
      this.#exports.landChain(REGION);
    }
    this.#exports.publishLanded(REGION);
    this.#watch.observe();
  }

  /** Queues of which every chain that is available has to be taken by the next pump. */
  whatMustBeTaken(): readonly QueueWatch[] {
    const { certainty, queues } = this.#watch;
    const isRunning = (this.#watch.word(abi.DEVICE_FLAGS) & abi.DEVICE_RUNNING) !== 0;
    if (certainty.wild || !isRunning || this.#stops) return [];
    if ((this.#setup.deviceFlags & abi.DEVICE_BARRIER) !== 0) return [];
    let chains = 0;
    for (const { flying, waiting } of queues) chains += flying.length + waiting.length;
    if (chains > FEW_CHAINS) return [];
    const all = queues.flatMap(({ flying, waiting }) => [...flying, ...waiting]);
    let requests = 0;
    for (const { expected } of all) requests += expected.requests;
    if (requests > FEW_REQUESTS) return [];
    const kicked = this.#watch.word(abi.DEVICE_KICKED);
    return queues.filter(({ index, state }) => state === abi.QUEUE_ON && (kicked >> index) & 1);
  }

  /** After a pump. */
  checkTaken(queues: readonly QueueWatch[]): void {
    if (this.#watch.certainty.wild) return;
    const kicked = this.#watch.word(abi.DEVICE_KICKED);
    for (const queue of queues) {
      if (queue.state !== abi.QUEUE_ON) continue;
      if (queue.left > 0) throw new Violation(`queue ${queue.index} leaves ${queue.left} chains`);
      if (((kicked >> queue.index) & 1) !== 0) throw new Violation('an empty queue is kicked');
    }
  }

  /** True when no chain is in flight. */
  isIdle(): boolean {
    return this.#watch.word(abi.DEVICE_IN_FLIGHT) === 0 && this.#watch.word(abi.DEVICE_HELD) === 0;
  }

  /** All is answered: every queue goes off, and no memory is needed. */
  end(): void {
    for (const queue of this.#watch.queues) {
      if (queue.state === abi.QUEUE_OFF) continue;
      if (queue.state === abi.QUEUE_ON) this.#setState(queue, abi.QUEUE_PAUSED);
      this.#detach(queue);
    }
    for (const part of this.#ram.regions) {
      if (!this.#removes(part)) throw new Violation('guest memory stays');
    }
  }
}

function halves(value: bigint): [low: number, high: number] {
  return [Number(value & 0xffff_ffffn), Number((value >> 32n) & 0xffff_ffffn)];
}
