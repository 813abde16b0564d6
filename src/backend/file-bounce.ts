/**
 * Direct transfers whose offset, length or addresses O_DIRECT does not take, by way of aligned
 * buffers of our own.
 *
 * B1 At most BOUNCE_BUFFERS buffers exist; commands wait for one in the order they came.
 * B2 A command moves through its buffer in chunks, so any length fits.
 * B3 A write first reads the blocks that it covers only in part, then writes whole blocks. Writes
 *    that share a block take turns (block-turns.ts), and so does what else changes part of one.
 * B4 A read needs the bytes that were asked for: the file may end within its last block.
 */
import { BlockTurns } from './block-turns.ts';
import { readPooled, type Settle, settled, type Views, writePooled } from './file-transfer.ts';

const BOUNCE_BUFFERS = 4;
const BOUNCE_BUFFER_BYTES = 256 * 1024;
const WASM_PAGE_BYTES = 65536;

/** What the bounced commands of a file share: page-aligned buffers, first come, first served. */
export class BounceBuffers {
  readonly turns = new BlockTurns();
  readonly #waiting: ((buffer: Uint8Array) => void)[] = [];
  #free: Uint8Array[] | undefined;

  /** A buffer, now or when one is given back. */
  async take(): Promise<Uint8Array> {
    this.#free ??= makeBuffers();
    return this.#free.pop() ?? new Promise((resolve) => void this.#waiting.push(resolve));
  }

  /** Hands the buffer to the command that has waited longest. */
  give(buffer: Uint8Array): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free?.push(buffer);
    else next(buffer);
  }
}

/** WebAssembly.Memory is page-aligned, which no other buffer in JavaScript promises. */
function makeBuffers(): Uint8Array[] {
  const initial = (BOUNCE_BUFFERS * BOUNCE_BUFFER_BYTES) / WASM_PAGE_BYTES;
  const { buffer } = new WebAssembly.Memory({ initial });
  return Array.from(
    { length: BOUNCE_BUFFERS },
    (_, index) => new Uint8Array(buffer, index * BOUNCE_BUFFER_BYTES, BOUNCE_BUFFER_BYTES),
  );
}

/** One command that bounces. */
export interface BounceRequest {
  readonly fd: number;
  readonly blockBytes: number;
  readonly offset: number;
  readonly length: number;
}

/** Reads the range into the views. */
export function readBounced(
  buffers: BounceBuffers,
  request: BounceRequest,
  views: Views,
  settle: Settle,
): void {
  const readChunk = async (chunk: Chunk): Promise<number> => {
    const enough = chunk.wanted.byteOffset - chunk.blocks.byteOffset + chunk.wanted.length;
    const errno = await readBlocks(request, chunk.blocks, chunk.start, enough);
    if (errno === 0) fillFrom(views(chunk.done), chunk.wanted);
    return errno;
  };
  void inChunks(buffers, request, readChunk).then(settle);
}

/** Writes the range from the views, or zeroes where there are none. */
export function writeBounced(
  buffers: BounceBuffers,
  request: BounceRequest,
  views: Views | null,
  settle: Settle,
): void {
  const writeChunk = async (chunk: Chunk): Promise<number> => {
    const errno = await readEdges(request, chunk);
    if (errno !== 0) return errno;
    if (views === null) chunk.wanted.fill(0);
    else copyInto(views(chunk.done), chunk.wanted);
    return writeBlocks(request, chunk.blocks, chunk.start);
  };
  const { offset, length, blockBytes } = request;
  const write = (): Promise<number> => inChunks(buffers, request, writeChunk);
  void buffers.turns.run(offset, length, blockBytes, write).then(settle);
}

/** Whole blocks in the buffer, and the part of them that the command names. */
interface Chunk {
  /** Bytes of the command before it. */
  readonly done: number;
  /** Offset in the file of the first block. */
  readonly start: number;
  readonly blocks: Uint8Array;
  readonly wanted: Uint8Array;
}

/** Runs the steps in order, stops at the first error and answers with its errno. */
async function inChunks(
  buffers: BounceBuffers,
  request: BounceRequest,
  step: (chunk: Chunk) => Promise<number>,
): Promise<number> {
  const end = request.offset + request.length;
  const buffer = await buffers.take();
  let errno = 0;
  for (let position = request.offset; position < end && errno === 0;) {
    const chunk = chunkAt(position, request, buffer);
    errno = await step(chunk);
    position += chunk.wanted.length;
  }
  buffers.give(buffer);
  return errno;
}

function chunkAt(position: number, request: BounceRequest, buffer: Uint8Array): Chunk {
  const { blockBytes, offset, length } = request;
  const end = offset + length;
  const start = position - (position % blockBytes);
  const lastBlock = Math.ceil(end / blockBytes) * blockBytes;
  const stop = Math.min(lastBlock, start + buffer.length);
  return {
    done: position - offset,
    start,
    blocks: buffer.subarray(0, stop - start),
    wanted: buffer.subarray(position - start, Math.min(end, stop) - start),
  };
}

/** Reads the first and the last block of the chunk where the command covers them in part. */
async function readEdges(request: BounceRequest, chunk: Chunk): Promise<number> {
  const { blockBytes } = request;
  const { blocks, start, wanted } = chunk;
  const before = wanted.byteOffset - blocks.byteOffset;
  const after = blocks.length - before - wanted.length;
  const last = blocks.length - blockBytes;
  if (before > 0 || (after > 0 && last === 0)) {
    const errno = await readBlocks(request, blocks.subarray(0, blockBytes), start);
    if (errno !== 0) return errno;
  }
  if (after === 0 || last === 0) return 0;
  return readBlocks(request, blocks.subarray(last), start + last);
}

function readBlocks(
  request: BounceRequest,
  blocks: Uint8Array,
  offset: number,
  enough = blocks.length,
): Promise<number> {
  const transfer = { ...transferOf(request, blocks, offset), enough };
  return settled((settle) => readPooled(transfer, settle));
}

function writeBlocks(request: BounceRequest, blocks: Uint8Array, offset: number): Promise<number> {
  return settled((settle) => writePooled(transferOf(request, blocks, offset), settle));
}

function transferOf({ fd, blockBytes }: BounceRequest, blocks: Uint8Array, offset: number) {
  const views = (skip: number): Uint8Array[] => [blocks.subarray(skip)];
  return { fd, offset, length: blocks.length, views, granuleBytes: blockBytes };
}

/** Copies bytes out of the views until `target` is full. */
function copyInto(views: readonly Uint8Array[], target: Uint8Array): void {
  inParts(views, target, (part, view) => part.set(view));
}

/** Copies all of `source` into the views. */
function fillFrom(views: readonly Uint8Array[], source: Uint8Array): void {
  inParts(views, source, (part, view) => view.set(part));
}

function inParts(
  views: readonly Uint8Array[],
  bytes: Uint8Array,
  copy: (part: Uint8Array, view: Uint8Array) => void,
): void {
  let done = 0;
  for (const view of views) {
    const count = Math.min(view.length, bytes.length - done);
    copy(bytes.subarray(done, done + count), view.subarray(0, count));
    done += count;
    if (done === bytes.length) return;
  }
}
