/**
 * All the ways in which one stream of virtio-blk requests can reach a device: the ring, direct and
 * indirect chains, framings, features, regions of guest memory, batches. None of them may change
 * what the requests do (VIRTIO 1.3, 2.7.4).
 */

import * as blk from '../../src/abi/virtio-blk.ts';
import {
  BlkDriver,
  type BlkRange,
  createDriverQueue,
  cutFraming,
  encodeRanges,
  type Framing,
  GuestMemory,
  type GuestRequest,
  joinedFraming,
  plainFraming,
  type RawRequest,
  segmentedFraming,
  withEmptyDescriptors,
} from '../../src/testing/guest/index.ts';
import type { Build } from '../support/engine.ts';
import { GuestRig } from './rig.ts';

/** A request without its bytes and its form. */
export interface LogicalRequest {
  readonly type: number;
  readonly sector: number;
  /** Bytes of data, in the direction of the type. */
  readonly bytes: number;
  /** What a write writes: this, then this plus 1, and so on. */
  readonly first: number;
  /** Of DISCARD and WRITE_ZEROES; instead of `bytes`. */
  readonly ranges?: readonly BlkRange[];
}

/** How requests are sent. */
export interface Layout {
  readonly packed: boolean;
  readonly size: number;
  /** Mixed: a descriptor or two before the indirect table (2.7.5.3.2), split rings only. */
  readonly form: 'direct' | 'indirect' | 'mixed';
  readonly framing: keyof typeof FRAMINGS;
  readonly eventIdx: boolean;
  readonly inOrder: boolean;
  /** One region of guest memory, or many that are adjacent for the guest and apart in memory. */
  readonly regions: 'one' | 'many';
  readonly batch: number;
}

/** What became of a request. */
export interface Outcome {
  readonly status: number | undefined;
  /** Nothing where IN_ORDER may have left it out. */
  readonly usedLength: number | undefined;
  /** What was read, when the status is OK. */
  readonly data: string;
  /** Bytes that changed although nothing said that they might. */
  readonly damage: number;
}

/** What became of a stream. */
export interface StreamOutcome {
  readonly requests: readonly Outcome[];
  readonly disk: Uint8Array;
}

/** By name; `emptied` has a descriptor of no bytes before each other one. */
export const FRAMINGS = {
  plain: plainFraming,
  joined: joinedFraming,
  'in threes': segmentedFraming(3),
  'header in pieces': (parts) => {
    const { readable, writable } = cutFraming([5, 1, 9, 1, 4000])(parts);
    return { readable, writable };
  },
  crumbs: cutFraming([7, 1, 30]),
  emptied: withEmptyDescriptors(plainFraming),
  'joined, emptied': withEmptyDescriptors(joinedFraming),
} as const satisfies Record<string, Framing>;

/** The layout that the others are compared with. */
export const PLAINEST: Layout = {
  packed: false,
  size: 64,
  form: 'direct',
  framing: 'plain',
  eventIdx: false,
  inOrder: false,
  regions: 'one',
  batch: 1,
};

const RAM_BYTES = 0x18_0000;
const DISK_BYTES = 0x1_0000;
/** Rings and indirect tables lie in the first region: a device need not follow them out of one. */
const FIRST_REGION_BYTES = 0x8_0000;
/** Regions of these sizes in turn: they cut buffers at any multiple of 16 bytes. */
const REGION_BYTES = [0x210, 0x1000, 0x30, 0x2f10, 0x8000, 0x450];

/** One piece of guest memory: offset, length and place. */
interface RegionPlace {
  readonly at: number;
  readonly length: number;
  readonly place: number;
}

/** Memory with one part for what has to lie in one region, and one for buffers. */
class PartedMemory extends GuestMemory {
  isForRings = true;
  /** Where what was allocated in each part ends. */
  readonly ends = [0, FIRST_REGION_BYTES];

  override allocate(lengthBytes: number, align?: number): number {
    const part = this.isForRings ? 0 : 1;
    const place = super.allocate(lengthBytes, align, part);
    this.ends[part] = Math.max(this.ends[part]!, place + lengthBytes);
    return place;
  }
}

/** Sends a stream in a layout; the whole disk and every answer come back. */
export function runStream(
  build: Build,
  stream: readonly LogicalRequest[],
  layout: Layout,
): StreamOutcome {
  const sender = new Sender(build, layout);
  for (const request of stream) sender.send(request);
  return sender.end();
}

class Sender {
  readonly #rig: GuestRig;
  readonly #layout: Layout;
  readonly #regions: readonly RegionPlace[];
  /** The guest's memory as the guest sees it. */
  readonly #flat = new Uint8Array(RAM_BYTES);
  readonly #memory: Uint8Array;
  readonly #guest: PartedMemory;
  readonly #driver: BlkDriver;
  readonly #outcomes: Outcome[] = [];
  #batch: GuestRequest[] = [];

  constructor(build: Build, layout: Layout) {
    const rig = new GuestRig(build, { ramBytes: RAM_BYTES, engine: { capacity: DISK_BYTES } });
    this.#rig = rig;
    this.#layout = layout;
    this.#memory = new Uint8Array(rig.memory.buffer);
    this.#regions = layout.regions === 'one' ? wholeOf(rig) : mapApart(rig);
    const { guestAddress } = rig;
    const first = FIRST_REGION_BYTES;
    const rest = guestAddress + BigInt(first);
    const memory = new PartedMemory(this.#flat, [
      { guestAddress, sizeBytes: first, address: 0 },
      { guestAddress: rest, sizeBytes: RAM_BYTES - first, address: first },
    ]);
    this.#guest = memory;
    const { packed, size, eventIdx, inOrder } = layout;
    const features = { indirect: layout.form !== 'direct', eventIdx, inOrder };
    const queue = createDriverQueue(packed, { memory, size, features });
    this.#driver = new BlkDriver({ queue });
    this.#copy(true);
    const error = rig.attach(0, queue.config());
    if (error !== 0) throw new Error(`the queue was refused: ${error}`);
  }

  send(request: LogicalRequest): void {
    const raw = this.#rawOf(request);
    const { queue } = this.#driver;
    if (queue.free < Math.min(queue.size, this.#needed(raw))) this.#finish();
    this.#guest.isForRings = false;
    this.#batch.push(this.#driver.raw(request.type, raw));
    if (this.#batch.length === this.#layout.batch) this.#finish();
  }

  end(): StreamOutcome {
    this.#finish();
    if (this.#rig.takeBroken() !== 0n) throw new Error('the queue is broken');
    return { requests: this.#outcomes, disk: this.#rig.disk };
  }

  #rawOf({ type, sector, bytes, first, ranges }: LogicalRequest): RawRequest {
    const framing: Framing = (parts) => this.#frame(parts);
    // The buffers have their memory; a table comes next.
    const alter: RawRequest['alter'] = (chain) => {
      this.#guest.isForRings = true;
      return chain;
    };
    const form = { sector, framing, alter };
    if (ranges !== undefined) return { ...form, out: encodeRanges(ranges) };
    const reads = type === blk.VIRTIO_BLK_T_IN || type === blk.VIRTIO_BLK_T_GET_ID;
    if (reads) return { ...form, in: bytes };
    return { ...form, out: Uint8Array.from({ length: bytes }, (_, i) => first + i) };
  }

  #frame(parts: Parameters<Framing>[0]): ReturnType<Framing> {
    const { form, framing, size } = this.#layout;
    const count = ({ readable, writable }: ReturnType<Framing>) =>
      readable.length + writable.length;
    const chosen = FRAMINGS[framing](parts);
    if (form === 'indirect') return { ...chosen, indirectFrom: 0 };
    if (form === 'mixed') {
      return { ...chosen, indirectFrom: Math.min(2, size - 1, count(chosen) - 1) };
    }
    // What the ring has no room for is sent in fewer descriptors.
    const fitting = [chosen, plainFraming(parts), joinedFraming(parts)];
    const framed = fitting.find((each) => count(each) <= size) ?? joinedFraming(parts);
    return { ...framed, indirectFrom: Infinity };
  }

  #needed(raw: RawRequest): number {
    if (this.#layout.form !== 'direct') return 3;
    const out = typeof raw.out === 'number' ? raw.out : (raw.out?.length ?? 0);
    const parts = { header: blk.BLK_HEADER_SIZE, out, in: raw.in ?? 0, status: 1 };
    const { readable, writable } = this.#frame(parts);
    return readable.length + writable.length;
  }

  #finish(): void {
    if (this.#batch.length === 0) return;
    const rig = this.#rig;
    if (this.#driver.publish()) rig.notify();
    this.#copy(true);
    rig.settle();
    this.#copy(false);
    if (rig.takeInterrupts() !== 1n) throw new Error('no interrupt came');
    if (this.#driver.poll().length !== this.#batch.length) throw new Error('a request is missing');
    if (this.#driver.strays.length > 0) throw new Error('a used buffer is nobody’s');
    for (const request of this.#batch) {
      this.#outcomes.push(this.#outcomeOf(request));
      this.#driver.release(request);
    }
    this.#batch = [];
  }

  #outcomeOf(request: GuestRequest): Outcome {
    const { status, usedLength } = request;
    return {
      status,
      usedLength: this.#layout.inOrder ? undefined : usedLength,
      data: status === 0 ? Buffer.from(request.data()).toString('hex') : '',
      damage: request.damage().length,
    };
  }

  /** What the guest has written goes to where it lies, or what the device has written to it. */
  #copy(toDevice: boolean): void {
    for (const { at, length, place } of this.#regions) {
      const used = this.#guest.ends[at < FIRST_REGION_BYTES ? 0 : 1]! - at;
      const bytes = Math.min(length, Math.max(used, 0));
      const flat = this.#flat.subarray(at, at + bytes);
      const memory = this.#memory.subarray(place, place + bytes);
      if (toDevice) memory.set(flat);
      else flat.set(memory);
    }
  }
}

function wholeOf({ ram }: GuestRig): RegionPlace[] {
  const first = FIRST_REGION_BYTES;
  return [
    { at: 0, length: first, place: ram },
    { at: first, length: RAM_BYTES - first, place: ram + first },
  ];
}

/** Maps regions that follow each other backwards in memory. */
function mapApart(rig: GuestRig): RegionPlace[] {
  const regions: RegionPlace[] = [];
  if (rig.unmap(rig.guestAddress) !== 0) throw new Error('the region stays');
  for (let at = 0, end = rig.ram + RAM_BYTES; at < RAM_BYTES;) {
    const next = REGION_BYTES[regions.length % REGION_BYTES.length]!;
    const isLast = regions.length === 100;
    const wanted = regions.length === 0 ? FIRST_REGION_BYTES : next;
    const length = isLast ? RAM_BYTES - at : Math.min(wanted, RAM_BYTES - at);
    end -= length;
    const error = rig.map(rig.guestAddress + BigInt(at), length, end);
    if (error !== 0) throw new Error(`region ${regions.length} was refused: ${error}`);
    regions.push({ at, length, place: end });
    at += length;
  }
  return regions;
}
