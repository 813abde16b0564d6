/**
 * An engine and the model of its rings (test/model/ring.ts), each with a copy of one guest's memory
 * and of one disk: what a test writes it writes into both, and after each pump every byte that the
 * device may have written is compared, those of the whole guest once nothing is in flight.
 */

import * as abi from '../../src/abi/virtio-device.ts';
import * as ring from '../../src/abi/virtio-ring.ts';
import { ENGINE_BASE } from '../driver.ts';
import { ModelBlk } from '../model/blk.ts';
import { ModelGuest, type ModelRegion, type Piece, type Walked } from '../model/guest.ts';
import { type Answer, ModelRing, type ModelRingConfig } from '../model/ring.ts';
import type { Build } from '../support/engine.ts';
import { DEVICE_WORDS, GuestRig } from './rig.ts';

/** What is compared beside the guest's memory: bytes behind it that are nobody's. */
const GUARD_BYTES = 64;
const BIT = 1n;

/** How a pair is made. */
export interface PairOptions {
  readonly ramBytes: number;
  readonly diskBytes: number;
  /** Cuts the memory into regions that are adjacent in guest addresses and in memory. */
  readonly cuts?: readonly number[];
}

/** A queue of a pair: offsets in the guest's memory. */
export type PairQueue = Omit<ModelRingConfig, 'nextAvail' | 'nextUsed'> & {
  readonly position?: number;
};

/** See the head of the file. */
export class RingPair {
  readonly rig: GuestRig;
  /** Guest address of the memory's first byte. */
  readonly base: bigint;
  /** The model's copy of the guest's memory, with the guard behind it. */
  readonly guest: ModelGuest;
  readonly disk: Uint8Array;
  model: ModelRing | undefined;
  /** Rounds in which chains shared bytes: only their rings were compared. */
  contested = 0;

  readonly #ram: Uint8Array;
  readonly #engineView: DataView;
  readonly #engineDisk: Uint8Array;
  readonly #modelBytes: Uint8Array;
  readonly #modelDisk: Uint8Array;
  readonly #blk: ModelBlk;
  #queue: ModelRingConfig | undefined;
  /** Chains that were taken and not landed before this pump. */
  #live: { readonly chain: Walked; isLanded: boolean }[] = [];
  #isContested = false;
  #hostBound = 0;

  constructor(build: Build, { ramBytes, diskBytes, cuts = [] }: PairOptions) {
    const engine = { capacity: diskBytes };
    this.rig = new GuestRig(build, { ramBytes, engine });
    const { rig } = this;
    this.base = rig.guestAddress;
    const regions = this.#map(cuts, ramBytes);
    const bytes = new Uint8Array(ramBytes + GUARD_BYTES);
    this.guest = new ModelGuest(bytes, regions);
    this.disk = rig.disk.slice();
    this.#ram = new Uint8Array(rig.memory.buffer, rig.ram, ramBytes + GUARD_BYTES);
    this.#engineView = new DataView(rig.memory.buffer, rig.ram, ramBytes);
    this.#engineDisk = asBuffer(rig.disk);
    this.#modelBytes = asBuffer(bytes);
    this.#modelDisk = asBuffer(this.disk);
    this.#blk = new ModelBlk(this.guest, this.disk, {
      id: DEVICE_WORDS.id,
      rangeSectors: DEVICE_WORDS.zeroesSectors,
      ranges: DEVICE_WORDS.zeroesSegments,
    });
    this.load(bytes);
  }

  /** Gives both copies these bytes. */
  load(image: Uint8Array): void {
    this.#ram.set(image);
    if (image !== this.guest.bytes) this.guest.bytes.set(image);
  }

  u16(at: number, value: number): void {
    this.guest.view.setUint16(at, value, true);
    this.#engineView.setUint16(at, value, true);
  }

  u32(at: number, value: number): void {
    this.guest.view.setUint32(at, value, true);
    this.#engineView.setUint32(at, value, true);
  }

  u64(at: number, value: bigint): void {
    this.guest.view.setBigUint64(at, value, true);
    this.#engineView.setBigUint64(at, value, true);
  }

  /** Attaches a ring, whose bytes are as they are, to both. */
  attach(queue: PairQueue): void {
    const { rig, base } = this;
    const position = queue.position ?? (queue.packed ? ring.WRAP_BIT : 0);
    const at = rig.queueAt(0);
    const flags = queue.flags | (queue.packed ? abi.QUEUE_PACKED : 0);
    rig.view.setUint32(at + abi.QUEUE_SIZE, queue.size, true);
    rig.view.setUint32(at + abi.QUEUE_FLAGS, flags, true);
    rig.view.setBigUint64(at + abi.QUEUE_DESC, base + BigInt(queue.desc), true);
    rig.view.setBigUint64(at + abi.QUEUE_DRIVER, base + BigInt(queue.driver), true);
    rig.view.setBigUint64(at + abi.QUEUE_DEVICE, base + BigInt(queue.device), true);
    rig.view.setUint32(at + abi.QUEUE_NEXT_AVAIL, position, true);
    rig.view.setUint32(at + abi.QUEUE_NEXT_USED, position, true);
    const error = rig.exports.attachQueue(ENGINE_BASE, 0) >>> 0;
    if (error !== 0) throw new Error(`the queue was refused: ${error}`);
    this.#queue = { ...queue, nextAvail: position, nextUsed: position };
    this.#live = [];
    this.#isContested = false;
    this.model = new ModelRing(this.guest, this.#queue, (chain) => this.#serve(chain));
  }

  /** Notifies both, and runs them until nothing is in flight. */
  round(): void {
    this.rig.notify();
    this.pump();
    while (this.rig.inFlight.length > 0) {
      while (this.rig.inFlight.length > 0) this.rig.answer();
      this.pump();
    }
    if (this.#current().inFlight > 0) throw new Error('a chain was taken and is not returned');
  }

  /** One pump of both; what the engine has returned the model returns in the same order. */
  pump(): void {
    const model = this.#current();
    const { rig } = this;
    const isKicked = (rig.deviceWord(abi.DEVICE_KICKED) & 1) !== 0;
    rig.pump();
    if (!model.inOrder) this.#finishAnswered(model);
    if (isKicked) model.take();
    const left = rig.queueWord(abi.QUEUE_IN_FLIGHT);
    if (model.inOrder) {
      if (model.inFlight > left) model.finishUpTo(this.#usedId(model));
    } else while (model.inFlight > left) model.finish(this.#usedId(model));
    model.publish();
    this.#compare(model);
  }

  /** Takes both off; their positions are compared. */
  detach(): void {
    const { rig } = this;
    const model = this.#current();
    if (model.state === abi.QUEUE_ON) rig.setQueueState(abi.QUEUE_PAUSED);
    same('detachQueue', rig.detach(), 0);
    same('next available', rig.queueWord(abi.QUEUE_NEXT_AVAIL), model.position[0]);
    same('next used', rig.queueWord(abi.QUEUE_NEXT_USED), model.position[1]);
    rig.takeBroken();
    this.model = undefined;
  }

  #map(cuts: readonly number[], ramBytes: number): ModelRegion[] {
    const { rig, base } = this;
    const ends = [...cuts, ramBytes];
    if (cuts.length > 0) rig.unmap(base);
    return ends.map((end, index) => {
      const at = ends[index - 1] ?? 0;
      const start = base + BigInt(at);
      if (cuts.length > 0) same('mapGuest', rig.map(start, end - at, rig.ram + at), 0);
      return { start, size: end - at, at };
    });
  }

  /** Chains of earlier pumps that the host's answers have decided come back first. */
  #finishAnswered(model: ModelRing): void {
    const engineUsed = this.#queue!.packed
      ? undefined
      : this.#engineView.getUint16(this.#queue!.device + ring.USED_IDX, true);
    const before = model.inFlight;
    for (let left = before; left > 0; left--) {
      if (engineUsed === model.used || (engineUsed === undefined && !this.#isUsed(model))) return;
      const id = this.#usedId(model);
      if (!model.waits(id)) return;
      model.finish(id);
    }
  }

  /** Packed: true when the engine has used the next descriptor. */
  #isUsed(model: ModelRing): boolean {
    const at = this.#queue!.desc + model.used * ring.DESC_SIZE + ring.PACKED_DESC_FLAGS;
    const both = ring.VIRTQ_DESC_F_AVAIL | ring.VIRTQ_DESC_F_USED;
    const wrap = model.position[1] >>> 15;
    return (this.#engineView.getUint16(at, true) & both) === (wrap === 1 ? both : 0);
  }

  /** What the engine has put into the next used entry. */
  #usedId({ used }: ModelRing): number {
    const { packed, size, desc, device } = this.#queue!;
    const view = this.#engineView;
    if (packed) return view.getUint16(desc + used * ring.DESC_SIZE + ring.PACKED_DESC_ID, true);
    const element = device + ring.USED_RING + (used % size) * ring.USED_ELEMENT_SIZE;
    return view.getUint32(element + ring.USED_ELEMENT_ID, true);
  }

  #serve(chain: Walked): Answer {
    if (this.#live.some((other) => areContested(chain, other.chain))) this.#isContested = true;
    const live = { chain, isLanded: false };
    this.#live.push(live);
    const { immediate, land } = this.#blk.serve(chain);
    const note = (): number => {
      live.isLanded = true;
      return land();
    };
    return { immediate, land: note };
  }

  #compare(model: ModelRing): void {
    const { rig } = this;
    same('state', rig.queueWord(abi.QUEUE_STATE), model.state);
    if (model.state === abi.QUEUE_BROKEN) {
      same('error', rig.queueWord(abi.QUEUE_ERROR), model.error);
      same('head of the error', rig.queueWord(abi.QUEUE_ERROR_HEAD), model.errorHead);
      const descriptor = rig.queueWord(abi.QUEUE_ERROR_DESCRIPTOR);
      same('descriptor of the error', descriptor, model.errorDescriptor);
    }
    const broken = rig.deviceWord(abi.DEVICE_BROKEN);
    same('DEVICE_BROKEN', broken, model.state === abi.QUEUE_BROKEN ? 1 : 0);
    same('interrupt', rig.takeInterrupts() === BIT, model.interrupt);
    model.interrupt = false;
    same('chains in flight', rig.queueWord(abi.QUEUE_IN_FLIGHT), model.inFlight);
    for (const { at, length } of this.#deviceAreas()) this.#sameBytes(at, length);
    this.#live = this.#live.filter(({ isLanded }) => !isLanded);
    if (model.inFlight === 0) this.#compareAll();
  }

  /** What the device writes of a ring. */
  #deviceAreas(): Piece[] {
    const { packed, size, desc, device } = this.#queue!;
    const usedBytes = ring.RING_EXTRA_BYTES + size * ring.USED_ELEMENT_SIZE;
    if (!packed) return [{ at: device, length: usedBytes }];
    return [
      { at: desc, length: size * ring.DESC_SIZE },
      { at: device, length: ring.EVENT_SIZE },
    ];
  }

  #compareAll(): void {
    if (this.#isContested) {
      this.#isContested = false;
      this.contested++;
      this.guest.bytes.set(this.#ram);
      this.disk.set(this.rig.disk);
      return;
    }
    this.#sameBytes(0, this.#ram.length);
    if (this.#hostBound === this.#blk.hostBound) return;
    this.#hostBound = this.#blk.hostBound;
    if (Buffer.compare(this.#engineDisk, this.#modelDisk) !== 0)
      throw new Error('the disks differ');
  }

  #sameBytes(at: number, length: number): void {
    const engine = this.#ram.subarray(at, at + length);
    const model = this.#modelBytes.subarray(at, at + length);
    if (Buffer.compare(engine, model) === 0) return;
    const first = engine.findIndex((byte, index) => byte !== model[index]);
    throw new Error(
      `byte 0x${(at + first).toString(16)} of the guest is ${engine[first]}, not ${model[first]}`,
    );
  }

  #current(): ModelRing {
    if (this.model === undefined) throw new Error('no queue is attached');
    return this.model;
  }
}

/** True when one of two chains writes what the other uses: the order of that is nobody's. */
function areContested(one: Walked, other: Walked): boolean {
  return (
    share(one.writable, other.writable) ||
    share(one.writable, other.readable) ||
    share(one.readable, other.writable)
  );
}

function share(some: readonly Piece[], others: readonly Piece[]): boolean {
  return some.some((a) => others.some((b) => a.at < b.at + b.length && b.at < a.at + a.length));
}

function asBuffer(bytes: Uint8Array): Uint8Array {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}

function same(what: string, engine: unknown, model: unknown): void {
  if (engine !== model)
    throw new Error(`${what}: ${String(engine)}, and the model ${String(model)}`);
}
