// A virtio-blk device in plain TypeScript: chains by bench/peers/ring.ts, requests by the tests'
// reference model, used entries by typed arrays.

import { OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE, OP_WRITE_ZEROES } from '../../src/abi/request.ts';
import * as blk from '../../src/abi/virtio-blk.ts';
import { QUEUE_PACKED } from '../../src/abi/virtio-device.ts';
import * as virtq from '../../src/abi/virtio-ring.ts';
import type { RequestRecord } from '../../test/driver.ts';
import { ModelEngine } from '../../test/model.ts';
import { attachPeerQueue, type PeerQueue, RingReader } from '../peers/ring.ts';
import { CHAIN } from '../peers/ring-walk.ts';
import { BENCH_ENGINE, type QueueConfig } from './device.ts';
import { GUEST_MAP, PEER_PLACE, placeOf } from './memory.ts';

const SECTOR_SIZE = 512;
const WORD = 2 ** 32;
const NO_DATA = { segments: 0, data: 0 };

/** A device with one queue. */
export class ModelDevice {
  readonly engine: ModelEngine;
  /** Interrupts that the driver would have had. */
  interrupts = 0;
  readonly #reader: RingReader;
  readonly #queue: PeerQueue;
  readonly #words: Uint32Array;
  readonly #halves: Uint16Array;
  readonly #bytes: Uint8Array;
  readonly #driver: number;
  readonly #device: number;
  #nextUsed = 0;
  #usedWrap = 1;

  constructor(memory: ArrayBuffer, config: QueueConfig) {
    const { capacityBytes, blockSizeBytes, ...options } = BENCH_ENGINE;
    this.engine = new ModelEngine(
      {
        capacity: capacityBytes,
        blockSize: blockSizeBytes,
        depth: options.depth,
        mergeBytes: options.mergeBytes,
        readOnly: false,
        noFlush: false,
        wce: true,
      },
      new DataView(memory),
    );
    this.#reader = new RingReader(memory, PEER_PLACE);
    for (const { start, sizeBytes, place } of GUEST_MAP) this.#reader.map(start, sizeBytes, place);
    this.#driver = placeOf(config.driver);
    this.#device = placeOf(config.device);
    const { size, flags } = config;
    this.#queue = attachPeerQueue({ size, flags, desc: placeOf(config.desc), avail: this.#driver });
    this.#words = this.#reader.words;
    this.#halves = new Uint16Array(memory);
    this.#bytes = new Uint8Array(memory);
  }

  /** Takes chains, runs the model, returns what is done. */
  pump(): void {
    const queue = this.#queue;
    this.#suppress(1);
    for (let chain = this.#reader.take(queue); chain >= 0; chain = this.#reader.take(queue)) {
      this.engine.submit(this.#requestOf(chain));
    }
    this.#suppress(0);
    this.engine.pump();
    const completions = this.engine.takeCompletions();
    for (const { tag, status } of completions) this.#return(tag, status);
    if (completions.length === 0) return;
    if (!this.#isPacked) this.#halves[(this.#device + virtq.USED_IDX) >>> 1] = this.#nextUsed;
    if (this.#wantsInterrupt()) this.interrupts++;
  }

  get #isPacked(): boolean {
    return (this.#queue.flags & QUEUE_PACKED) !== 0;
  }

  /** Asks the driver for notifications, or not to notify. */
  #suppress(flag: number): void {
    const at = this.#isPacked ? virtq.EVENT_FLAGS : virtq.USED_FLAGS;
    this.#halves[(this.#device + at) >>> 1] = flag;
  }

  #wantsInterrupt(): boolean {
    const at = this.#isPacked ? virtq.EVENT_FLAGS : virtq.AVAIL_FLAGS;
    return this.#halves[(this.#driver + at) >>> 1] === 0;
  }

  #requestOf(chain: number): RequestRecord {
    const words = this.#words;
    const sector = words[chain + CHAIN.SECTOR]! + words[chain + CHAIN.SECTOR + 1]! * WORD;
    const segments = words[chain + CHAIN.SEGMENTS]!;
    const list = words[chain + CHAIN.LIST]!;
    const data = segments === 1 ? words[list]! : list * 4;
    const length = words[chain + CHAIN.LENGTH]!;
    const common = { tag: chain, flags: 0, queue: 1 };
    switch (words[chain + CHAIN.TYPE]) {
      case blk.VIRTIO_BLK_T_IN:
        return { ...common, op: OP_READ, offset: sector * SECTOR_SIZE, length, segments, data };
      case blk.VIRTIO_BLK_T_OUT:
        return { ...common, op: OP_WRITE, offset: sector * SECTOR_SIZE, length, segments, data };
      case blk.VIRTIO_BLK_T_DISCARD:
        return { ...common, op: OP_DISCARD, ...this.#rangeOf(chain), ...NO_DATA };
      case blk.VIRTIO_BLK_T_WRITE_ZEROES:
        return { ...common, op: OP_WRITE_ZEROES, ...this.#rangeOf(chain), ...NO_DATA };
      default:
        return { ...common, op: OP_FLUSH, offset: 0, length: 0, ...NO_DATA };
    }
  }

  /** The one range of a discard: its sum of data, the first segment of the chain. */
  #rangeOf(chain: number): { offset: number; length: number } {
    const words = this.#words;
    const range = words[words[chain + CHAIN.LIST]!]! >>> 2;
    const sector = words[range]! + words[range + 1]! * WORD;
    const sectors = words[range + blk.BLK_RANGE_SECTORS / 4]!;
    return { offset: sector * SECTOR_SIZE, length: sectors * SECTOR_SIZE };
  }

  /** The status byte, the used entry; the chain is free. */
  #return(chain: number, status: number): void {
    const words = this.#words;
    const ok = status === 0;
    const isRead = ok && words[chain + CHAIN.TYPE] === blk.VIRTIO_BLK_T_IN;
    const length = isRead ? words[chain + CHAIN.LENGTH]! + 1 : 1;
    this.#bytes[words[chain + CHAIN.STATUS]!] = ok ? blk.VIRTIO_BLK_S_OK : blk.VIRTIO_BLK_S_IOERR;
    const id = words[chain + CHAIN.ID]!;
    if (this.#isPacked) this.#putPacked(id, length, words[chain + CHAIN.SLOTS]!);
    else this.#putSplit(id, length);
    this.#reader.giveBack(this.#queue, chain);
  }

  #putSplit(id: number, length: number): void {
    const entry = this.#nextUsed & (this.#queue.size - 1);
    const at = (this.#device + virtq.USED_RING + entry * virtq.USED_ELEMENT_SIZE) >>> 2;
    this.#words[at] = id;
    this.#words[at + 1] = length;
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
  }

  #putPacked(id: number, length: number, slots: number): void {
    const at = (this.#queue.desc >>> 2) + this.#nextUsed * 4;
    const wrap = this.#usedWrap === 1 ? virtq.VIRTQ_DESC_F_AVAIL | virtq.VIRTQ_DESC_F_USED : 0;
    const written = length > 1 ? virtq.VIRTQ_DESC_F_WRITE : 0;
    this.#words[at + 2] = length;
    this.#words[at + 3] = id | ((wrap | written) << 16);
    this.#nextUsed += slots;
    if (this.#nextUsed >= this.#queue.size) {
      this.#nextUsed -= this.#queue.size;
      this.#usedWrap ^= 1;
    }
  }
}
