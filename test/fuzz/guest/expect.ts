/** What a sound chain asks for, and how it must end when the host does everything: 5.2.6. */

import { CONFIG_READ_ONLY } from '../../../src/abi/region.ts';
import * as abi from '../../../src/abi/virtio-device.ts';
import * as blk from '../../../src/abi/virtio-blk.ts';
import type { Setup } from './input.ts';
import type { Ram } from './ram.ts';
import { SECTOR } from './request.ts';
import type { Chain } from './walk.ts';

/** The status of a chain that has none. */
export const NO_STATUS = -1;
/** The status of a chain whose framing regions have cut: nobody says what that means. */
export const ANY_STATUS = -2;

/** How a chain ends, and how many requests the engine makes of it. */
export interface Expected {
  readonly status: number;
  readonly requests: number;
}

const { VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP } = blk;
const FAILS: Expected = { status: VIRTIO_BLK_S_IOERR, requests: 0 };
const UNSUPPORTED: Expected = { status: VIRTIO_BLK_S_UNSUPP, requests: 0 };

/** What a chain that a device of `setup` takes now must end with. */
export function expect(ram: Ram, setup: Setup, chain: Chain): Expected {
  if (chain.writableBytes === 0) return { status: NO_STATUS, requests: 0 };
  if (chain.readableBytes < blk.BLK_HEADER_SIZE) return FAILS;
  const isCut =
    chain.readable[0]?.length !== chain.firstLength ||
    chain.writable.at(-1)?.length !== chain.lastLength;
  const isFixed = (setup.deviceFlags & abi.DEVICE_FIXED_FRAMING) !== 0;
  const lastPiece = chain.writable.at(-1)?.length ?? 0;
  if (isCut && (isFixed || lastPiece < SECTOR)) return { status: ANY_STATUS, requests: 64 };
  if (isFixed && (chain.firstLength !== blk.BLK_HEADER_SIZE || chain.lastLength !== 1))
    return FAILS;
  const header = readable(ram, chain, blk.BLK_HEADER_SIZE);
  const type = header.getUint32(blk.BLK_HEADER_TYPE, true) % blk.VIRTIO_BLK_T_BARRIER;
  const sector = header.getBigUint64(blk.BLK_HEADER_SECTOR, true);
  if ((setup.engineFlags & CONFIG_READ_ONLY) !== 0 && changesDisk(type)) return FAILS;
  const out = chain.readableBytes - blk.BLK_HEADER_SIZE;
  const into = chain.writableBytes - 1 - statusArea(chain);
  switch (type) {
    case blk.VIRTIO_BLK_T_IN:
      return out === 0 ? transfer(setup, sector, into) : FAILS;
    case blk.VIRTIO_BLK_T_OUT:
      return into === 0 ? transfer(setup, sector, out) : FAILS;
    case blk.VIRTIO_BLK_T_FLUSH:
    case blk.VIRTIO_BLK_T_FLUSH_OUT:
      return { status: VIRTIO_BLK_S_OK, requests: 1 };
    case blk.VIRTIO_BLK_T_GET_ID:
      return { status: VIRTIO_BLK_S_OK, requests: 0 };
    case blk.VIRTIO_BLK_T_DISCARD:
      if ((setup.deviceFlags & abi.DEVICE_DISCARD) === 0) return UNSUPPORTED;
      return ranges(ram, setup, chain, 0);
    case blk.VIRTIO_BLK_T_WRITE_ZEROES:
      if ((setup.deviceFlags & abi.DEVICE_WRITE_ZEROES) === 0) return UNSUPPORTED;
      return ranges(ram, setup, chain, blk.VIRTIO_BLK_RANGE_F_UNMAP);
    default:
      return UNSUPPORTED;
  }
}

function changesDisk(type: number): boolean {
  const writes: readonly number[] = [
    blk.VIRTIO_BLK_T_OUT,
    blk.VIRTIO_BLK_T_DISCARD,
    blk.VIRTIO_BLK_T_WRITE_ZEROES,
    blk.VIRTIO_BLK_T_SECURE_ERASE,
  ];
  return writes.includes(type);
}

/** Bytes before the status that belong to it: what would leave the data ragged otherwise. */
function statusArea(chain: Chain): number {
  const { lastLength, writableBytes } = chain;
  const isWhole = chain.writable.at(-1)?.length === lastLength && lastLength < SECTOR;
  const isRagged = writableBytes === lastLength || (writableBytes - 1) % SECTOR !== 0;
  return isWhole && isRagged && (writableBytes - lastLength) % SECTOR === 0 ? lastLength - 1 : 0;
}

function transfer(setup: Setup, sector: bigint, length: number): Expected {
  const isWhole = length % (setup.blockSectors * SECTOR) === 0;
  if (!isWhole || sector % BigInt(setup.blockSectors) !== 0n) return FAILS;
  const isThere = sector * BigInt(SECTOR) + BigInt(length) <= BigInt(setup.sectors * SECTOR);
  return { status: isThere ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR, requests: 1 };
}

function ranges(ram: Ram, setup: Setup, chain: Chain, flags: number): Expected {
  const bytes = chain.readableBytes - blk.BLK_HEADER_SIZE;
  const count = bytes / blk.BLK_RANGE_SIZE;
  const limit = Math.min(setup.rangeSegments, abi.BLK_RANGES);
  if (bytes === 0 || !Number.isInteger(count) || count > limit) return FAILS;
  const list = readable(ram, chain, chain.readableBytes);
  let requests = 0;
  for (let at = blk.BLK_HEADER_SIZE; at < chain.readableBytes; at += blk.BLK_RANGE_SIZE) {
    const sectors = list.getUint32(at + blk.BLK_RANGE_SECTORS, true);
    const sector = list.getBigUint64(at + blk.BLK_RANGE_SECTOR, true);
    if ((list.getUint32(at + blk.BLK_RANGE_FLAGS, true) & ~flags) !== 0) return UNSUPPORTED;
    if (sectors > setup.rangeSectors) return FAILS;
    if (sector + BigInt(sectors) > BigInt(setup.sectors)) return FAILS;
    requests += Number(sectors > 0);
  }
  return { status: VIRTIO_BLK_S_OK, requests };
}

/** The first readable bytes of a chain. */
function readable(ram: Ram, chain: Chain, length: number): DataView {
  const bytes = new Uint8Array(length);
  let done = 0;
  for (const range of chain.readable) {
    for (let i = 0; i < range.length && done < length; i++, done++) {
      bytes[done] = ram.loadAt(range.place + i);
    }
  }
  return new DataView(bytes.buffer);
}
