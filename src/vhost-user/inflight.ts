/**
 * What is in flight, in memory that the front-end keeps while back-ends come and go. vhost-user,
 * "Inflight I/O tracking": one record for each ring (assembly/ring/inflight.ts), behind a head of
 * our own. It says whether the guest has turned the write cache off, and which process uses it: one
 * that has not come to its end may have taken completed writes with it.
 */
import {
  INFLIGHT_DESCRIPTORS,
  INFLIGHT_LAST_BATCH_HEAD,
  INFLIGHT_STATE_COUNTER,
  INFLIGHT_STATE_FLAG,
  INFLIGHT_STATE_NEXT,
  INFLIGHT_STATE_SIZE,
  INFLIGHT_STATES,
  INFLIGHT_USED_INDEX,
  INFLIGHT_VERSION,
} from '../abi/virtio-device.ts';
import type { InflightRecord } from '../virtio/virtqueue-types.ts';
import type { Mapping } from './guest-memory.ts';
import { broken } from './protocol.ts';

/** What GET_INFLIGHT_FD asks for. */
export interface InflightShape {
  readonly queues: number;
  readonly queueSize: number;
}

/** Where the records are. */
export interface InflightFile {
  readonly fd: number;
  readonly at: bigint;
  readonly size: bigint;
  readonly shape: InflightShape;
}

/** The write cache, as the last process has left it. */
export type KeptCache = 'unknown' | 'on' | 'off';

const HEAD_BYTES = 64;
const HEAD_CACHE = 0;
/** u64: who uses the records; 0: nobody, as at first, and after a good end. */
const HEAD_OWNER = 8;
const CACHES: readonly KeptCache[] = ['unknown', 'on', 'off'];
const ALIGN = 64;
/** A head of a descriptor, in the list of those that are to be taken first. */
const ORDER_ENTRY_BYTES = 2;
const RECORD_VERSION = 1;
const INDEX_MASK = 0xffff;

/** Bytes of a record for each ring. */
export function inflightBytes({ queues, queueSize }: InflightShape): number {
  return HEAD_BYTES + queues * recordBytes(queueSize);
}

function recordBytes(queueSize: number): number {
  const bytes = INFLIGHT_STATES + queueSize * (INFLIGHT_STATE_SIZE + ORDER_ENTRY_BYTES);
  return Math.ceil(bytes / ALIGN) * ALIGN;
}

export class Inflight {
  readonly #mapping: Mapping;
  readonly #memory: WebAssembly.Memory;
  readonly #shape: InflightShape;

  /** Over mapped memory that is large enough for the shape. */
  constructor(mapping: Mapping, memory: WebAssembly.Memory, shape: InflightShape) {
    this.#mapping = mapping;
    this.#memory = memory;
    this.#shape = shape;
  }

  get cache(): KeptCache {
    return CACHES[this.#view(this.#mapping.address).getUint8(HEAD_CACHE)] ?? 'unknown';
  }

  set cache(cache: KeptCache) {
    this.#view(this.#mapping.address).setUint8(HEAD_CACHE, CACHES.indexOf(cache));
  }

  /** Who uses it; 0n: nobody, and all that was completed is stable. */
  get owner(): bigint {
    return this.#view(this.#mapping.address).getBigUint64(HEAD_OWNER, true);
  }

  set owner(owner: bigint) {
    this.#view(this.#mapping.address).setBigUint64(HEAD_OWNER, owner, true);
  }

  /**
   * The record of a ring that begins, or goes on where its used index says.
   * @throws SluiceError ERR_SLUICE_CONNECTION for a record of another ring
   */
  begin(queue: number, size: number, usedIndex: number): InflightRecord {
    const { queues, queueSize } = this.#shape;
    if (queue >= queues || size > queueSize) {
      throw broken(`ring ${queue} of ${size} entries, and asked for ${queues} of ${queueSize}`);
    }
    const address = this.#mapping.address + HEAD_BYTES + queue * recordBytes(queueSize);
    const record = this.#view(address);
    if (record.getUint16(INFLIGHT_VERSION, true) === 0) {
      record.setUint16(INFLIGHT_DESCRIPTORS, size, true);
      record.setUint16(INFLIGHT_USED_INDEX, usedIndex, true);
      record.setUint16(INFLIGHT_VERSION, RECORD_VERSION, true);
    }
    const known = record.getUint16(INFLIGHT_DESCRIPTORS, true);
    if (record.getUint16(INFLIGHT_VERSION, true) !== RECORD_VERSION || known !== size) {
      throw broken(`a record of ${known} descriptors in flight for ring ${queue} of ${size}`);
    }
    endBatch(record, size, usedIndex);
    return { address, ...leftIn(record, size) };
  }

  /** The rings have been reset: nothing of them is in flight. */
  clear(): void {
    const { owner } = this;
    const { address } = this.#mapping;
    new Uint8Array(this.#memory.buffer, address, inflightBytes(this.#shape)).fill(0);
    this.owner = owner;
  }

  release(): void {
    this.#mapping.release();
  }

  #view(address: number): DataView {
    return new DataView(this.#memory.buffer, address);
  }
}

/** What the driver has seen of the last batch is in flight no more. */
function endBatch(record: DataView, size: number, usedIndex: number): void {
  const ended = (usedIndex - record.getUint16(INFLIGHT_USED_INDEX, true)) & INDEX_MASK;
  let head = record.getUint16(INFLIGHT_LAST_BATCH_HEAD, true);
  for (let count = Math.min(ended, size); count > 0; count--) {
    const state = stateAt(head % size);
    record.setUint8(state + INFLIGHT_STATE_FLAG, 0);
    head = record.getUint16(state + INFLIGHT_STATE_NEXT, true);
  }
  record.setUint16(INFLIGHT_USED_INDEX, usedIndex, true);
}

/** Writes the list of what was taken and not returned, in the order in which it was taken. */
function leftIn(record: DataView, size: number): Omit<InflightRecord, 'address'> {
  const left: { readonly head: number; readonly counter: bigint }[] = [];
  for (let head = 0; head < size; head++) {
    const state = stateAt(head);
    if (record.getUint8(state + INFLIGHT_STATE_FLAG) === 0) continue;
    left.push({ head, counter: record.getBigUint64(state + INFLIGHT_STATE_COUNTER, true) });
  }
  left.sort((one, other) => (one.counter < other.counter ? -1 : 1));
  for (const [index, { head }] of left.entries()) {
    record.setUint16(stateAt(size) + index * ORDER_ENTRY_BYTES, head, true);
  }
  const last = left.at(-1)?.counter ?? 0n;
  return { resubmits: left.length, counter: BigInt.asUintN(64, last + 1n) };
}

function stateAt(head: number): number {
  return INFLIGHT_STATES + head * INFLIGHT_STATE_SIZE;
}
