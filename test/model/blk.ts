/**
 * What virtio-blk does with a chain, in plain TypeScript: VIRTIO 1.3, 5.2.6, and the rules of
 * assembly/request/blk.ts. A device with DISCARD and WRITE_ZEROES, and a disk that never fails.
 */

import * as blk from '../../src/abi/virtio-blk.ts';
import { bytesIn, type ModelGuest, type Piece, type Walked } from './guest.ts';
import type { Answer } from './ring.ts';

const SECTOR = 512;

/** What the device was configured with. */
export interface ModelBlkConfig {
  readonly id: string;
  readonly rangeSectors: number;
  readonly ranges: number;
}

/** A device; it changes its own copies of the disk and of the guest's memory. */
export class ModelBlk {
  readonly #guest: ModelGuest;
  readonly #disk: Uint8Array;
  readonly #config: ModelBlkConfig;
  /** Chains that were served, since the beginning, and that will be answered by the host. */
  hostBound = 0;

  constructor(guest: ModelGuest, disk: Uint8Array, config: ModelBlkConfig) {
    this.#guest = guest;
    this.#disk = disk;
    this.#config = config;
  }

  /** Does what a chain asks for. */
  serve(chain: Walked): Answer {
    const writable = bytesIn(chain.writable);
    if (writable === 0) return { immediate: true, land: () => 0 };
    const header = this.#gather(chain.readable).subarray(0, blk.BLK_HEADER_SIZE);
    if (header.length < blk.BLK_HEADER_SIZE) {
      return this.#answer(chain, 1, blk.VIRTIO_BLK_S_IOERR);
    }
    const view = new DataView(header.buffer, header.byteOffset, header.length);
    const type = view.getUint32(blk.BLK_HEADER_TYPE, true) & ~blk.VIRTIO_BLK_T_BARRIER;
    const sector = view.getBigUint64(blk.BLK_HEADER_SECTOR, true);
    const area = type === blk.VIRTIO_BLK_T_GET_ID ? 1 : statusArea(chain, writable);
    switch (type) {
      case blk.VIRTIO_BLK_T_IN:
        return this.#read(chain, area, sector);
      case blk.VIRTIO_BLK_T_OUT:
        return this.#write(chain, area, sector);
      case blk.VIRTIO_BLK_T_FLUSH:
      case blk.VIRTIO_BLK_T_FLUSH_OUT:
        return this.#answer(chain, area, blk.VIRTIO_BLK_S_OK, NOTHING, false);
      case blk.VIRTIO_BLK_T_GET_ID:
        return this.#getId(chain, writable);
      case blk.VIRTIO_BLK_T_DISCARD:
        return this.#ranges(chain, area, 0);
      case blk.VIRTIO_BLK_T_WRITE_ZEROES:
        return this.#ranges(chain, area, blk.VIRTIO_BLK_RANGE_F_UNMAP);
      default:
        return this.#answer(chain, area, blk.VIRTIO_BLK_S_UNSUPP);
    }
  }

  #read(chain: Walked, area: number, sector: bigint): Answer {
    const length = bytesIn(chain.writable) - area;
    const isShape = bytesIn(chain.readable) === blk.BLK_HEADER_SIZE && length % SECTOR === 0;
    if (!isShape || sector >= 2n ** 55n) return this.#answer(chain, area, blk.VIRTIO_BLK_S_IOERR);
    const at = this.#onDisk(sector, length);
    if (at === undefined) {
      return this.#answer(chain, area, blk.VIRTIO_BLK_S_IOERR, NOTHING, false);
    }
    const data = this.#disk.slice(at, at + length);
    return this.#answer(chain, area, blk.VIRTIO_BLK_S_OK, data, false);
  }

  #write(chain: Walked, area: number, sector: bigint): Answer {
    const data = this.#gather(chain.readable).subarray(blk.BLK_HEADER_SIZE);
    const isShape = bytesIn(chain.writable) === area && data.length % SECTOR === 0;
    if (!isShape || sector >= 2n ** 55n) return this.#answer(chain, area, blk.VIRTIO_BLK_S_IOERR);
    const at = this.#onDisk(sector, data.length);
    if (at === undefined) {
      return this.#answer(chain, area, blk.VIRTIO_BLK_S_IOERR, NOTHING, false);
    }
    this.#disk.set(data, at);
    return this.#answer(chain, area, blk.VIRTIO_BLK_S_OK, NOTHING, false);
  }

  #getId(chain: Walked, writable: number): Answer {
    const id = new Uint8Array(blk.VIRTIO_BLK_ID_BYTES);
    id.set(new TextEncoder().encode(this.#config.id).subarray(0, id.length));
    return this.#answer(chain, 1, blk.VIRTIO_BLK_S_OK, id.subarray(0, writable - 1));
  }

  #ranges(chain: Walked, area: number, flags: number): Answer {
    const list = this.#gather(chain.readable).subarray(blk.BLK_HEADER_SIZE);
    const view = new DataView(list.buffer, list.byteOffset, list.length);
    const count = list.length / blk.BLK_RANGE_SIZE;
    if (!Number.isInteger(count) || count === 0 || count > this.#config.ranges) {
      return this.#answer(chain, area, blk.VIRTIO_BLK_S_IOERR);
    }
    const found: Piece[] = [];
    for (let at = 0; at < list.length; at += blk.BLK_RANGE_SIZE) {
      const sectors = view.getUint32(at + blk.BLK_RANGE_SECTORS, true);
      if ((view.getUint32(at + blk.BLK_RANGE_FLAGS, true) & ~flags) !== 0) {
        return this.#answer(chain, area, blk.VIRTIO_BLK_S_UNSUPP);
      }
      const sector = view.getBigUint64(at + blk.BLK_RANGE_SECTOR, true);
      const place = this.#onDisk(sector, sectors * SECTOR);
      if (place === undefined || sectors > this.#config.rangeSectors) {
        return this.#answer(chain, area, blk.VIRTIO_BLK_S_IOERR);
      }
      found.push({ at: place, length: sectors * SECTOR });
    }
    for (const { at, length } of found) this.#disk.fill(0, at, at + length);
    const isNothing = found.every(({ length }) => length === 0);
    return this.#answer(chain, area, blk.VIRTIO_BLK_S_OK, NOTHING, isNothing);
  }

  #onDisk(sector: bigint, length: number): number | undefined {
    const end = sector * BigInt(SECTOR) + BigInt(length);
    return end <= BigInt(this.#disk.length) ? Number(sector) * SECTOR : undefined;
  }

  /** Data from the first writable byte on; the status area at the end of the chain. */
  #answer(
    { writable }: Walked,
    area: number,
    status: number,
    data: Uint8Array = NOTHING,
    immediate = true,
  ): Answer {
    if (!immediate) this.hostBound++;
    const land = (): number => {
      const total = bytesIn(writable);
      this.#scatter(writable, 0, data);
      const last = new Uint8Array(area);
      last[area - 1] = status;
      this.#scatter(writable, total - area, last);
      return data.length + area;
    };
    return { immediate, land };
  }

  #gather(pieces: readonly Piece[]): Uint8Array {
    const all = new Uint8Array(bytesIn(pieces));
    let offset = 0;
    for (const { at, length } of pieces) {
      all.set(this.#guest.bytes.subarray(at, at + length), offset);
      offset += length;
    }
    return all;
  }

  #scatter(pieces: readonly Piece[], skip: number, data: Uint8Array): void {
    let position = 0;
    for (const { at, length } of pieces) {
      const from = Math.max(position, skip);
      const to = Math.min(position + length, skip + data.length);
      if (from < to)
        this.#guest.bytes.set(data.subarray(from - skip, to - skip), at + from - position);
      position += length;
    }
  }
}

const NOTHING = new Uint8Array(0);

/**
 * Bytes of the status: one; or, where the data would not be whole sectors then, and is without it,
 * all of a last buffer that is shorter than a sector. Not of GET_ID, whose data never is, nor where
 * regions cut that buffer.
 */
function statusArea({ writable, isCut }: Walked, total: number): number {
  if (isCut) return 1;
  const last = writable.at(-1)?.length ?? 0;
  const isRagged = (total - 1) % SECTOR !== 0;
  return last < SECTOR && isRagged && (total - last) % SECTOR === 0 ? last : 1;
}
