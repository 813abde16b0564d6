/**
 * The compressed clusters of an image as a backend: a read names the bytes of a stream in the
 * file, and is answered with the plain cluster.
 *
 * V1 The target is touched only when a whole cluster has come out; a damaged stream is EIO.
 * V2 What a read names past the end of the file reads as zeroes, as nothing was cut off there but
 *    the rest of a sector. A stream that starts past the end is EIO.
 * V3 Memory is bounded: a fixed number of slots of two clusters, and one cluster that comes out
 *    for each. Reads wait for a slot in the order they came.
 */
import { ERRNO_EIO, ERRNO_ENOTSUP } from '../../abi/command.ts';
import type { Backend, Done } from '../../backend/backend.ts';
import {
  type DataCommand,
  EngineMemory,
  noMemory,
  refuseBeforeAttach,
} from '../../backend/engine-memory.ts';
import { EFAULT, EINVAL, EROFS } from '../../backend/errno.ts';
import { type Compression, type Decompress, loadCodec } from './codec.ts';
import { Scratch, scatter } from './codec-scratch.ts';

/** How the clusters of the image are stored. */
export interface CompressedViewOptions {
  readonly clusterBytes: number;
  readonly compression: Compression;
}

const SLOTS_MAX = 16;
const SCRATCH_BYTES_MAX = 16 * 1024 * 1024;
/** The longest stream that an L2 entry can name, in clusters. */
const STREAM_CLUSTERS = 2;

/**
 * Makes a view over a backend of its own, which it attaches and closes. The backend must be open
 * for reading; nothing is written through the view.
 */
export async function openCompressedView(
  inner: Backend,
  options: CompressedViewOptions,
): Promise<CompressedView> {
  return new CompressedView(inner, options.clusterBytes, await loadCodec(options.compression));
}

/** One read that is under way. */
interface Job {
  /** Where the plain cluster goes. */
  readonly command: DataCommand;
  /** Bytes of the stream, as far as the entry names them. */
  readonly streamBytes: number;
}

/** See openCompressedView(). Offsets and lengths of reads are those of streams in the file. */
export class CompressedView implements Backend {
  readonly blockSizeBytes = 1;
  readonly readOnly = true;
  readonly unmaps = false;
  readonly fua = false;
  readonly depth: number;

  readonly #inner: Backend;
  readonly #clusterBytes: number;
  readonly #decompress: Decompress;
  readonly #scratch: Scratch;
  readonly #jobs: (Job | undefined)[] = [];
  #memory = noMemory();
  #done: Done = refuseBeforeAttach;

  constructor(inner: Backend, clusterBytes: number, decompress: Decompress) {
    const slotBytes = STREAM_CLUSTERS * clusterBytes;
    const slots = Math.min(SLOTS_MAX, Math.floor(SCRATCH_BYTES_MAX / slotBytes));
    this.#inner = inner;
    this.#clusterBytes = clusterBytes;
    this.#decompress = decompress;
    this.#scratch = new Scratch(slots, slotBytes);
    this.depth = slots;
    inner.attach(this.#scratch.memory, (slot, errno) => this.#streamRead(slot, errno));
  }

  get sizeBytes(): number {
    return this.#inner.sizeBytes;
  }

  attach(memory: WebAssembly.Memory, done: Done): void {
    this.#memory = new EngineMemory(memory);
    this.#done = done;
  }

  /** `data`: where the plain cluster goes; the segments of a table add up to a cluster. */
  read(id: number, offset: number, length: number, segments: number, data: number): void {
    const command = { id, offset, length: this.#clusterBytes, segments, data };
    const refusal = this.#refusalOf(command, length);
    if (refusal !== 0) this.#done(id, refusal, 0);
    else this.#scratch.take((slot) => this.#start(slot, { command, streamBytes: length }));
  }

  write(id: number): void {
    this.#done(id, EROFS, 0);
  }

  writeZeroes(id: number): void {
    this.#done(id, EROFS, 0);
  }

  discard(id: number): void {
    this.#done(id, EROFS, 0);
  }

  blockStatus(id: number): void {
    this.#done(id, ERRNO_ENOTSUP, 0);
  }

  /** Nothing was written, so nothing waits to become stable. */
  sync(id: number): void {
    this.#done(id, 0, 0);
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  #refusalOf(command: DataCommand, streamBytes: number): number {
    const { offset } = command;
    if (offset < 0 || streamBytes <= 0 || streamBytes > this.#scratch.slotBytes) return EINVAL;
    if (!this.#memory.holds(command)) return EFAULT;
    return offset < this.sizeBytes ? 0 : ERRNO_EIO;
  }

  #start(slot: number, job: Job): void {
    const { offset } = job.command;
    const inFile = Math.min(job.streamBytes, this.sizeBytes - offset);
    this.#jobs[slot] = job;
    this.#scratch.bytesOf(slot, job.streamBytes).fill(0, inFile);
    this.#inner.read(slot, offset, inFile, 1, this.#scratch.addressOf(slot));
  }

  #streamRead(slot: number, errno: number): void {
    if (errno !== 0) return this.#finish(slot, errno);
    const bytes = this.#scratch.bytesOf(slot, this.#jobs[slot]?.streamBytes ?? 0);
    const plain = this.#decompress(bytes, this.#clusterBytes);
    if (plain instanceof Promise) void plain.then((cluster) => this.#deliver(slot, cluster));
    else this.#deliver(slot, plain);
  }

  #deliver(slot: number, cluster: Uint8Array | undefined): void {
    const command = this.#jobs[slot]?.command;
    if (cluster === undefined || command === undefined) return this.#finish(slot, ERRNO_EIO);
    // The memory may have grown, and a table may have changed, since the read came in.
    if (!this.#memory.holds(command)) return this.#finish(slot, EFAULT);
    scatter(cluster, this.#memory.views(command));
    this.#finish(slot, 0);
  }

  #finish(slot: number, errno: number): void {
    const job = this.#jobs[slot];
    this.#jobs[slot] = undefined;
    if (job !== undefined) this.#done(job.command.id, errno, 0);
    this.#scratch.give(slot);
  }
}
