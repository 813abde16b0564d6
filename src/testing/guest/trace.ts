/**
 * Request streams of real guests: one line for each request as it reached the device,
 *
 *     batch type sector bytes descriptors
 *
 * where batch is the number of the notification that brought it, or a time in milliseconds. Lines
 * in a row with the same batch came together. Data is not recorded, nor what was discarded.
 */
import { invalid } from '../../arguments.ts';
import { BLK_RANGE_SIZE } from '../../abi/virtio-blk.ts';
import {
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_SECURE_ERASE,
  VIRTIO_BLK_T_WRITE_ZEROES,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_GET_LIFETIME,
} from '../../abi/virtio-blk.ts';
import type { BlkDriver } from './blk.ts';
import { encodeRanges } from './blk.ts';
import type { GuestRequest } from './blk-request.ts';
import { type Framing, segmentedFraming } from './framing.ts';

/** One request of a guest. */
export interface GuestTraceRequest {
  /** VIRTIO_BLK_T_*. */
  readonly type: number;
  readonly sector: number;
  /** Bytes of data. */
  readonly bytes: number;
  /** Descriptors of its chain, header and status among them. */
  readonly descriptors: number;
}

/** Requests that came together. */
export interface GuestTraceBatch {
  /** The first column: the number of the notification, or milliseconds. */
  readonly at: number;
  readonly requests: readonly GuestTraceRequest[];
}

/**
 * Reads a stream; empty lines and lines that begin with # are skipped.
 * @throws SluiceError `ERR_SLUICE_INVALID_ARGUMENT`, with the line's number
 */
export function parseGuestTrace(text: string): GuestTraceBatch[] {
  const batches: { at: number; requests: GuestTraceRequest[] }[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    const content = line.trim();
    if (content === '' || content.startsWith('#')) continue;
    const { at, ...request } = parseLine(content, index + 1);
    const last = batches.at(-1);
    if (last?.at === at) last.requests.push(request);
    else batches.push({ at, requests: [request] });
  }
  return batches;
}

/**
 * Makes a recorded request, with as many descriptors. Data of writes is whatever lies in the
 * guest's memory; ranges of discards have no sectors.
 */
export function replayGuestRequest(driver: BlkDriver, request: GuestTraceRequest): GuestRequest {
  const { type, sector, bytes } = request;
  const framing = framingOf(request);
  switch (type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_GET_ID:
    case VIRTIO_BLK_T_GET_LIFETIME:
      return driver.raw(type, { sector, in: bytes, framing });
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
    case VIRTIO_BLK_T_SECURE_ERASE:
      return driver.raw(type, { sector, out: noSectors(bytes), framing });
    default:
      return driver.raw(type, { sector, out: bytes, framing });
  }
}

function framingOf({ bytes, descriptors }: GuestTraceRequest): Framing {
  return segmentedFraming(bytes === 0 ? 1 : Math.max(descriptors - 2, 1));
}

function noSectors(bytes: number): Uint8Array {
  const count = Math.floor(bytes / BLK_RANGE_SIZE);
  return encodeRanges(Array.from({ length: count }, () => ({ sector: 0, sectors: 0 })));
}

function parseLine(line: string, lineNumber: number): GuestTraceRequest & { at: number } {
  const columns = line.split(/\s+/);
  const [at = NaN, type = NaN, sector = NaN, bytes = NaN, descriptors = NaN] = columns.map(Number);
  const whole = [type, sector, bytes, descriptors].every((n) => Number.isSafeInteger(n) && n >= 0);
  if (columns.length !== 5 || !whole || !Number.isFinite(at)) {
    throw invalid(
      `line ${lineNumber} is not \`batch type sector bytes descriptors\`: ${JSON.stringify(line)}`,
    );
  }
  return { at, type, sector, bytes, descriptors };
}
