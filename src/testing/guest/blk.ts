/**
 * A virtio-blk driver for tests, on either ring: it makes requests of every shape, right or wrong,
 * and takes them back. VIRTIO 1.3, 5.2.6.
 *
 *     const disk = new BlkDriver({ queue });
 *     const read = disk.read(0, 4096);
 *     if (disk.publish()) notifyTheDevice();
 *     disk.poll();           // after the interrupt
 *     read.status; read.data();
 */
import {
  BLK_HEADER_SECTOR,
  BLK_HEADER_SIZE,
  BLK_HEADER_TYPE,
  BLK_RANGE_FLAGS,
  BLK_RANGE_SECTOR,
  BLK_RANGE_SECTORS,
  BLK_RANGE_SIZE,
  VIRTIO_BLK_ID_BYTES,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_SECURE_ERASE,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from '../../abi/virtio-blk.ts';
import { invalid } from '../../arguments.ts';
import { GUARD_BYTE, GuestRequest } from './blk-request.ts';
import type { Descriptor, DriverQueue, UsedBuffer } from './driver-queue.ts';
import { frame, type FramedRequest, type Framing, plainFraming } from './framing.ts';
import type { GuestMemory } from './memory.ts';

/** How a driver makes its requests. */
export interface BlkDriverOptions {
  readonly queue: DriverQueue;
  /** Default: plainFraming, in an indirect table when INDIRECT_DESC was negotiated. */
  readonly framing?: Framing;
  /** Guard bytes around all buffers, and `GuestRequest.damage`; default true. */
  readonly guards?: boolean;
  /** Alignment of the guest addresses of data of at least that size: a power of two; default 16. */
  readonly align?: number;
}

/** A range of DISCARD, WRITE_ZEROES and SECURE_ERASE. */
export interface BlkRange {
  readonly sector: number | bigint;
  readonly sectors: number;
  readonly flags?: number;
}

/** Everything that a request can be made of. */
export interface RawRequest {
  /** Default 0; all 64 bits are sent. */
  readonly sector?: number | bigint;
  /** The word between type and sector, once a priority; default 0. */
  readonly reserved?: number;
  /** The whole header instead, of any length. */
  readonly header?: Uint8Array;
  /** What the device reads: bytes, or how many of them when it does not matter which. */
  readonly out?: Uint8Array | number;
  /** Bytes that the device writes before the status; default 0. */
  readonly in?: number;
  /** Bytes of the status; the last one counts; default 1. */
  readonly status?: number;
  readonly framing?: Framing;
  /** Last changes to the chain: other addresses, lengths, directions, descriptors. */
  readonly alter?: (chain: Descriptor[]) => Descriptor[];
}

/** Before, between and behind the pieces of a request. */
const GUARD_BYTES = 16;
const BLOCK_ALIGN = 16;

/** See the head of the file. What is made is sent by the next `publish`. */
export class BlkDriver {
  readonly queue: DriverQueue;
  /** Used buffers that belong to no request in flight. */
  readonly strays: UsedBuffer[] = [];

  readonly #memory: GuestMemory;
  readonly #framing: Framing;
  readonly #guardBytes: number;
  readonly #align: number;
  readonly #inFlight: (GuestRequest | undefined)[] = [];
  readonly #header = new Uint8Array(BLK_HEADER_SIZE);
  readonly #headerView = new DataView(this.#header.buffer);

  constructor({ queue, framing = plainFraming, guards = true, align = 16 }: BlkDriverOptions) {
    this.queue = queue;
    this.#memory = queue.memory;
    this.#framing = framing;
    this.#guardBytes = guards ? GUARD_BYTES : 0;
    this.#align = align;
  }

  /** Reads bytes. */
  read(sector: number | bigint, lengthBytes: number, framing?: Framing): GuestRequest {
    return this.raw(VIRTIO_BLK_T_IN, { sector, in: lengthBytes, ...given(framing) });
  }

  /** Writes bytes. */
  write(sector: number | bigint, data: Uint8Array, framing?: Framing): GuestRequest {
    return this.raw(VIRTIO_BLK_T_OUT, { sector, out: data, ...given(framing) });
  }

  /** Makes stable what has been written. */
  flush(framing?: Framing): GuestRequest {
    return this.raw(VIRTIO_BLK_T_FLUSH, given(framing));
  }

  /** Asks for the serial: 20 bytes of data. */
  getId(framing?: Framing): GuestRequest {
    return this.raw(VIRTIO_BLK_T_GET_ID, { in: VIRTIO_BLK_ID_BYTES, ...given(framing) });
  }

  /** Gives ranges up. */
  discard(ranges: readonly BlkRange[], framing?: Framing): GuestRequest {
    return this.#ranges(VIRTIO_BLK_T_DISCARD, ranges, framing);
  }

  /** Zeroes ranges. */
  writeZeroes(ranges: readonly BlkRange[], framing?: Framing): GuestRequest {
    return this.#ranges(VIRTIO_BLK_T_WRITE_ZEROES, ranges, framing);
  }

  /** Erases ranges. */
  secureErase(ranges: readonly BlkRange[], framing?: Framing): GuestRequest {
    return this.#ranges(VIRTIO_BLK_T_SECURE_ERASE, ranges, framing);
  }

  /**
   * Makes a request of any type and shape.
   * @throws SluiceError `ERR_SLUICE_OUT_OF_RANGE` when ring or memory have no room for it
   */
  raw(type: number, request: RawRequest = {}): GuestRequest {
    const { out = 0, in: inBytes = 0, status = 1 } = request;
    const header = request.header ?? this.#headerOf(type, request);
    const outBytes = typeof out === 'number' ? out : out.length;
    const parts = { header: header.length, out: outBytes, in: inBytes, status };
    const framed = frame(request.framing ?? this.#framing, parts);
    this.#memory.refresh();
    const block = this.#allocate(framed);
    const pieces = this.#place(block.place, framed);
    this.#fill(pieces, header, typeof out === 'number' ? undefined : out);
    const chain = request.alter?.(pieces) ?? pieces;
    const usual = this.queue.features.indirect === true ? 0 : chain.length;
    const indirectFrom = framed.indirectFrom ?? usual;
    const made = new GuestRequest(this.#memory, type, chain, indirectFrom, block, status);
    if (this.#guardBytes > 0) made.keep();
    try {
      return this.#send(made);
    } catch (error) {
      this.#memory.free(block.place, block.lengthBytes);
      throw error;
    }
  }

  /** Sends a request that is not in flight once more, as its bytes are now; for benches. */
  again(request: GuestRequest): GuestRequest {
    if (this.#inFlight[request.token] === request) throw invalid('the request is in flight');
    return this.#send(request);
  }

  /** Shows the device what was made. @returns whether it must be notified */
  publish(): boolean {
    return this.queue.publish();
  }

  /** Takes back what the device has used; at most `limit` requests. */
  poll(limit = Infinity): GuestRequest[] {
    const finished: GuestRequest[] = [];
    while (finished.length < limit) {
      const used = this.queue.takeUsed();
      if (used === undefined) break;
      const request = used.known ? this.#inFlight[used.token] : undefined;
      if (request === undefined) {
        this.strays.push(used);
        continue;
      }
      this.#inFlight[used.token] = undefined;
      request.finish(used.length);
      finished.push(request);
    }
    return finished;
  }

  /** Gives the memory of a request back; nobody looks at its bytes any more. */
  release(request: GuestRequest): void {
    if (this.#inFlight[request.token] === request) throw invalid('the request is in flight');
    this.#memory.free(request.block.place, request.block.lengthBytes);
  }

  #ranges(type: number, ranges: readonly BlkRange[], framing?: Framing): GuestRequest {
    return this.raw(type, { out: encodeRanges(ranges), ...given(framing) });
  }

  #send(request: GuestRequest): GuestRequest {
    request.renew();
    request.token = this.queue.add(request.chain, request.indirectFrom);
    this.#inFlight[request.token] = request;
    return request;
  }

  #headerOf(type: number, { sector = 0, reserved = 0 }: RawRequest): Uint8Array {
    const header = this.#headerView;
    header.setUint32(BLK_HEADER_TYPE, type, true);
    header.setUint32(BLK_HEADER_TYPE + 4, reserved, true);
    if (typeof sector === 'bigint') header.setBigUint64(BLK_HEADER_SECTOR, sector, true);
    else {
      header.setUint32(BLK_HEADER_SECTOR, sector, true);
      header.setUint32(BLK_HEADER_SECTOR + 4, Math.floor(sector / 0x1_0000_0000), true);
    }
    return this.#header;
  }

  #allocate({ readable, writable }: FramedRequest): { place: number; lengthBytes: number } {
    let lengthBytes = this.#guardBytes;
    for (const piece of readable) lengthBytes += this.#room(piece);
    for (const piece of writable) lengthBytes += this.#room(piece);
    const place = this.#memory.allocate(lengthBytes, BLOCK_ALIGN);
    if (this.#guardBytes > 0) this.#memory.bytes(place, lengthBytes).fill(GUARD_BYTE);
    return { place, lengthBytes };
  }

  /** Most bytes that a piece, its alignment and the guard behind it can take. */
  #room(piece: number): number {
    const align = piece >= this.#align ? this.#align : BLOCK_ALIGN;
    return piece + align + this.#guardBytes;
  }

  #place(start: number, { readable, writable }: FramedRequest): Descriptor[] {
    const pieces: Descriptor[] = [];
    let place = start + this.#guardBytes;
    const put = (length: number, isWritable: boolean): void => {
      const align = length >= this.#align ? this.#align : BLOCK_ALIGN;
      const address = this.#memory.aligned(place, align);
      pieces.push({ address, length, writable: isWritable });
      place = address + length + this.#guardBytes;
    };
    for (const length of readable) put(length, false);
    for (const length of writable) put(length, true);
    return pieces;
  }

  #fill(pieces: readonly Descriptor[], header: Uint8Array, out: Uint8Array | undefined): void {
    const { u8 } = this.#memory;
    let offset = 0;
    for (const { address, length, writable } of pieces) {
      if (writable || typeof address !== 'number') break;
      const end = offset + length;
      if (offset === 0 && length >= header.length) u8.set(header, address);
      else if (offset < header.length) u8.set(header.subarray(offset, end), address);
      if (out !== undefined && end > header.length) {
        const from = Math.max(offset, header.length);
        u8.set(out.subarray(from - header.length, end - header.length), address + from - offset);
      }
      offset = end;
    }
  }
}

/** The data of DISCARD, WRITE_ZEROES and SECURE_ERASE. */
export function encodeRanges(ranges: readonly BlkRange[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(ranges.length * BLK_RANGE_SIZE));
  for (const [index, { sector, sectors, flags = 0 }] of ranges.entries()) {
    const at = index * BLK_RANGE_SIZE;
    view.setBigUint64(at + BLK_RANGE_SECTOR, BigInt(sector), true);
    view.setUint32(at + BLK_RANGE_SECTORS, sectors, true);
    view.setUint32(at + BLK_RANGE_FLAGS, flags, true);
  }
  return new Uint8Array(view.buffer);
}

function given(framing: Framing | undefined): { framing?: Framing } {
  return framing === undefined ? {} : { framing };
}
