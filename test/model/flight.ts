/** The model's flight: the commands of one run (L1-L3), cut where a stripe's chunk ends (M1). */

import { MERGE_SEGMENTS } from '../../src/abi/limits.ts';
import * as abi from '../../src/abi/request.ts';
import { type CommandRecord, type FullConfig, type Segment, segmentsOf } from '../driver.ts';
import type { Entry } from './request.ts';

/** One command's share of a flight; offsets and lengths of the disk. */
interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly transfer: Pick<CommandRecord, 'segments' | 'data' | 'table'>;
}

/** What a piece says in its command; the offset is the file's (M1). */
export interface Sent extends Pick<CommandRecord, 'file' | 'offset' | 'length'> {
  readonly transfer: Piece['transfer'];
}

/** A run on its way to the host. */
export class Flight {
  readonly parts: readonly Entry[];
  /** W3: its commands are stable when the host answers. */
  readonly direct: boolean;
  /** L1: the first failure answered. */
  errno = 0;
  value = 0;
  readonly #config: FullConfig;
  readonly #memory: DataView;
  readonly #offset: number;
  readonly #length: number;
  #next: number;
  /** The files of its commands at the host, by id. */
  readonly #atHost = new Map<number, number>();

  constructor(config: FullConfig, memory: DataView, parts: readonly Entry[], direct: boolean) {
    this.#config = config;
    this.#memory = memory;
    this.parts = parts;
    this.direct = direct;
    const { offset, op } = parts[0]!;
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    this.#offset = offset;
    this.#next = offset;
    // M1: the first piece only.
    const answers = Math.min(this.#chunkEnd(offset), offset + length) - offset;
    this.#length = op === abi.OP_BLOCK_STATUS ? answers : length;
  }

  /** L2: nothing more goes to the host. */
  get isSent(): boolean {
    return this.errno !== 0 || this.#next === this.#offset + this.#length;
  }

  /** L1. */
  get isDecided(): boolean {
    return this.isSent && this.#atHost.size === 0;
  }

  /** Takes the next piece as the command `id`, or nothing while L3 forbids it. */
  send(id: number): Sent | undefined {
    const piece = this.#nextPiece();
    const { blockSize, files, chunkBytes } = this.#config;
    if (this.#atHost.size > 0 && piece.offset % blockSize !== 0) return undefined; // L3
    this.#next = piece.offset + piece.length;
    const { offset, length, transfer } = piece;
    const chunk = files === 1 ? 0 : Math.floor(offset / chunkBytes);
    const inChunk = offset - chunk * chunkBytes;
    const file = chunk % files;
    this.#atHost.set(id, file);
    return { file, offset: Math.floor(chunk / files) * chunkBytes + inChunk, length, transfer };
  }

  /** The host has answered a command; returns its file. */
  answer(id: number, errno: number, value: number): number {
    const file = this.#atHost.get(id)!;
    this.#atHost.delete(id);
    if (this.errno === 0) this.errno = errno;
    this.value = value;
    return file;
  }

  #chunkEnd(offset: number): number {
    const { files, chunkBytes } = this.#config;
    return files === 1 ? Infinity : (Math.floor(offset / chunkBytes) + 1) * chunkBytes;
  }

  #nextPiece(): Piece {
    const offset = this.#next;
    const length = Math.min(this.#offset + this.#length, this.#chunkEnd(offset)) - offset;
    const { op, segments, data } = this.parts[0]!;
    if (op > abi.OP_WRITE) return { offset, length, transfer: { segments, data, table: [] } };
    if (this.parts.length === 1 && length === this.#length) {
      const table = segmentsOf(this.#memory, segments, data, length);
      return { offset, length, transfer: { segments, data, table } };
    }
    return this.#gathered(offset, length);
  }

  /** A piece with a table of its own: all of it, or what ends at a granule, or what fits. */
  #gathered(offset: number, length: number): Piece {
    const { blockSize } = this.#config;
    let segments = this.#slice(offset, length);
    let bytes = length;
    if (segments.length > MERGE_SEGMENTS) {
      bytes = bytesOf(segments.slice(0, MERGE_SEGMENTS));
      const border = Math.floor((offset + bytes) / blockSize) * blockSize;
      if (border > offset) bytes = border - offset;
      segments = this.#slice(offset, bytes);
    }
    const table = joinNeighbours(segments);
    const data = table.length === 1 ? table[0]!.address : 0;
    return { offset, length: bytes, transfer: { segments: table.length, data, table } };
  }

  /** The memory of a range of the disk, segment by segment. */
  #slice(offset: number, length: number): Segment[] {
    const pieces: Segment[] = [];
    let at = this.#offset;
    for (const part of this.parts) {
      for (const segment of segmentsOf(this.#memory, part.segments, part.data, part.length)) {
        const from = Math.max(at, offset);
        const to = Math.min(at + segment.length, offset + length);
        if (from < to) pieces.push({ address: segment.address + from - at, length: to - from });
        at += segment.length;
      }
    }
    return pieces;
  }
}

function joinNeighbours(table: readonly Segment[]): Segment[] {
  const joined: Segment[] = [];
  for (const { address, length } of table) {
    const last = joined.at(-1);
    if (last !== undefined && last.address + last.length === address) {
      joined[joined.length - 1] = { address: last.address, length: last.length + length };
    } else joined.push({ address, length });
  }
  return joined;
}

function bytesOf(table: readonly Segment[]): number {
  return table.reduce((sum, segment) => sum + segment.length, 0);
}
