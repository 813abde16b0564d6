/**
 * A disk: the promise-shaped face of a device.
 *
 * Requests made in one turn of the event loop go to the engine as one batch, so that neighbours
 * merge and flushes coalesce. Data is copied once between the caller's array and a page-aligned
 * transfer buffer.
 */
import {
  EXTENT_SIZE,
  EXTENT_TABLE_ENTRIES,
  OP_BLOCK_STATUS,
  OP_CLEAR_LATCH,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_SET_WCE,
  OP_WRITE,
  OP_WRITE_ZEROES,
  REQUEST_BARRIER,
  REQUEST_FAST_ZERO,
  REQUEST_FUA,
  REQUEST_MAY_UNMAP,
} from './abi/request.ts';
import { invalid, toBytes, toNumber, toSwitch } from './arguments.ts';
import type { Backend } from './backend/backend.ts';
import { type CacheAxes, type CacheMode, resolveCacheMode } from './cache-mode.ts';
import { transfer } from './disk-asks.ts';
import { type Corruption, corruptionOf } from './corruption.ts';
import { extentsAt } from './disk-extents.ts';
import {
  type ByteCount,
  DISK_OPTIONS,
  type DiskExtent,
  type DiskOptions,
  type Face,
  type RequestOptions,
  type WriteOptions,
  type WriteZeroesOptions,
} from './disk-types.ts';
import { EngineDevice } from './engine-device.ts';
import { SluiceError } from './errors.ts';
import { checkOptions } from './options.ts';
import { type Ask, PromisedRequests } from './promised-requests.ts';
import type { Mapping } from './mapping.ts';
import { endWriting } from './settle-mapping.ts';
import { toArenaBytes } from './place.ts';
import { type ResizeOptions, resizeDevice } from './resize.ts';
import { checkScheduling } from './scheduling-options.ts';
import { type DiskStats, readStats } from './stats.ts';
import type { Tracer } from './trace/tracer.ts';

const DEFAULT_BUFFER_BYTES = 128 * 1024 * 1024;
const DEFAULT_MERGE_BYTES = 1024 * 1024;
/** Longer transfers are cut into pieces of this size; each piece is atomic to overlapping ones. */
const PIECE_BYTES = 4 * 1024 * 1024;
const EXTENT_TABLE = { bufferBytes: EXTENT_TABLE_ENTRIES * EXTENT_SIZE };
const FLUSH: Ask = { op: OP_FLUSH, flags: 0, offset: 0, length: 0, operation: 'flush' };

/** A block device in memory and in order: reads, writes, flushes. Made by `openDisk`. */
export class Disk implements AsyncDisposable {
  /** The raw request interface, for servers and device models. */
  readonly device: EngineDevice;
  readonly readOnly: boolean;
  /** The mode in force; `unsafe` for every mode without flushes. */
  readonly cacheMode: CacheMode;
  /** The axes in force. */
  readonly cache: CacheAxes;

  readonly #backends: readonly (Backend | undefined)[];
  readonly #hasBarriers: boolean;
  readonly #tracer: Tracer | undefined;
  readonly #mapping: Mapping | undefined;
  readonly #requests: PromisedRequests;
  readonly #faces = new Set<Face>();
  readonly #resizeListeners = new Set<(sizeBytes: number) => void>();
  #resizing: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;

  /**
   * Takes over what it is made of; that is closed with the disk. Several backends are one disk,
   * striped over them in chunks of `chunkBytes`.
   */
  constructor(backends: Backend | readonly (Backend | undefined)[], options: DiskOptions = {}) {
    checkOptions(options, DISK_OPTIONS, 'Disk');
    const { name, axes } = resolveCacheMode(options.cache);
    const files = 'attach' in backends ? [backends] : backends;
    const striped = files.filter((file) => file !== undefined);
    checkScheduling(options, options.mapping === undefined ? striped : []);
    this.#backends = files;
    this.#hasBarriers = (options.barrier ?? 'off') !== 'off';
    this.device = new EngineDevice(files, {
      ...options,
      noFlush: axes.noFlush,
      wce: axes.wce,
      arenaBytes: toArenaBytes(options.bufferBytes ?? DEFAULT_BUFFER_BYTES, 'bufferBytes'),
      mergeBytes: options.mergeBytes ?? DEFAULT_MERGE_BYTES,
    });
    this.#tracer = options.tracer;
    this.#mapping = options.mapping;
    this.#requests = new PromisedRequests(this.device);
    this.readOnly = this.device.readOnly;
    this.cacheMode = name;
    this.cache = axes;
  }

  /** Capacity in bytes. */
  get size(): number {
    return this.device.sizeBytes;
  }

  /** True from the call of `close` on. */
  get closed(): boolean {
    return this.#closing !== undefined;
  }

  /** True while completed writes need a flush to be stable. */
  get wce(): boolean {
    return this.device.engine.wce;
  }

  /**
   * Turns the write cache on or off for requests that follow. Turning it off also flushes; await
   * `setWce` instead to know when, and whether, what was written before is stable. A failure here
   * is not lost: every later flush fails too.
   */
  set wce(on: boolean) {
    this.setWce(on).catch((error: unknown) => {
      // A failed sync is latched in the engine; any other failure is not one of durability.
      if (!this.device.engine.latched && this.#closing === undefined) throw error;
    });
  }

  /** True once a sync has failed: no flush succeeds any more, until `clearLatch`. */
  get latched(): boolean {
    return this.device.engine.latched;
  }

  /** What was found wrong with the image while it was in use; it takes no writes after that. */
  get corruption(): Corruption | undefined {
    return corruptionOf(this.device.engine);
  }

  /**
   * Takes syncs for true again after one has failed. For operators who have seen to the storage:
   * whatever was not stable before this resolves may be lost, also when a later flush succeeds,
   * and is theirs to check and to write again. Nothing else opens the latch but opening anew.
   */
  async clearLatch(): Promise<void> {
    this.#checkOpen();
    await this.#ask({ ...FLUSH, op: OP_CLEAR_LATCH, operation: 'clear latch' });
  }

  /** Turns the write cache on or off; off resolves after a flush. A guest may keep it off. */
  async setWce(on: boolean): Promise<void> {
    const wanted = toSwitch(on, 'the write cache');
    this.#checkOpen();
    this.device.wishCache('owner', wanted);
    const length = Number(wanted);
    await this.#ask({ op: OP_SET_WCE, flags: 0, offset: 0, length, operation: 'flush' });
  }

  /**
   * Reads into `into`, or `length` bytes into a new array; resolves with the array.
   * @throws SluiceError ERR_SLUICE_OUT_OF_RANGE, ERR_SLUICE_IO, ERR_SLUICE_CLOSED
   */
  async read(
    offset: ByteCount,
    into: Uint8Array | number,
    options: RequestOptions = {},
  ): Promise<Uint8Array> {
    const start = toNumber(offset, 'offset');
    const length =
      typeof into === 'number' ? toNumber(into, 'length') : toBytes(into, 'into').length;
    this.#checkRange('read', start, length);
    const target = typeof into === 'number' ? new Uint8Array(length) : into;
    await this.#inPieces(length, (at, size) =>
      this.#requests.request(
        { ...transfer(OP_READ, 0, start + at, size, options), operation: 'read' },
        (_, address) => target.set(this.device.bytes.subarray(address, address + size), at),
      ),
    );
    return target;
  }

  /**
   * Writes `bytes`, which must not change until the promise settles. Stable on return with `fua`,
   * or when `wce` was false at the call; else after a flush.
   * @throws SluiceError ERR_SLUICE_READ_ONLY, ERR_SLUICE_NO_SPACE, ... as read
   */
  async write(offset: ByteCount, bytes: Uint8Array, options: WriteOptions = {}): Promise<void> {
    const start = toNumber(offset, 'offset');
    const source = toBytes(bytes, 'bytes');
    const flags = this.#writeFlags(options);
    this.#checkRange('write', start, source.length);
    await this.#inPieces(source.length, (at, size) =>
      this.#ask({
        ...transfer(OP_WRITE, flags, start + at, size, options),
        operation: 'write',
        fill: (address) => this.device.bytes.set(source.subarray(at, at + size), address),
      }),
    );
  }

  /**
   * Resolves once every write that completed before this call is on stable storage.
   * @throws SluiceError ERR_SLUICE_IO when the sync fails, ERR_SLUICE_FLUSH_LATCHED ever after
   */
  async flush(options: RequestOptions = {}): Promise<void> {
    this.#checkOpen();
    await this.#ask({ ...FLUSH, signal: options.signal });
  }

  /** Makes a range read as zeroes. */
  async writeZeroes(
    offset: ByteCount,
    length: ByteCount,
    options: WriteZeroesOptions = {},
  ): Promise<void> {
    const flags =
      this.#writeFlags(options) |
      (toSwitch(options.mayUnmap, 'mayUnmap') ? REQUEST_MAY_UNMAP : 0) |
      (toSwitch(options.fast, 'fast') ? REQUEST_FAST_ZERO : 0);
    await this.#rangeRequest(OP_WRITE_ZEROES, flags, offset, length, 'write zeroes', options);
  }

  /** Gives a range back to the host: its contents become undefined. */
  async discard(offset: ByteCount, length: ByteCount, options: WriteOptions = {}): Promise<void> {
    const flags = this.#writeFlags(options);
    await this.#rangeRequest(OP_DISCARD, flags, offset, length, 'discard', options);
  }

  /** What lies where: runs from `offset` on, in order, without gaps. */
  async *blockStatus(
    offset: ByteCount = 0,
    length: ByteCount = this.size - toNumber(offset, 'offset'),
    options: RequestOptions = {},
  ): AsyncGenerator<DiskExtent, void, void> {
    let at = toNumber(offset, 'offset');
    const end = at + toNumber(length, 'length');
    this.#checkRange('block status', at, end - at);
    while (at < end) {
      for (const extent of await this.#blockStatus(at, end - at, options.signal)) {
        yield extent;
        at = extent.offset + extent.length;
      }
    }
  }

  /**
   * Changes the capacity of a disk that is one image, and flushes. Requests that come meanwhile
   * wait until the ones before have completed. A raw file is cut or extended; a block device must
   * have that many bytes already. When a flush fails, the new size may be in force all the same.
   * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT when it would shrink without `shrink`;
   *   ERR_SLUICE_UNSUPPORTED, ERR_SLUICE_BUSY, ERR_SLUICE_ALIGNMENT, ERR_SLUICE_NO_SPACE ...
   */
  async resize(bytes: ByteCount, options: ResizeOptions = {}): Promise<void> {
    const size = toNumber(bytes, 'bytes');
    const mayShrink = toSwitch(options.shrink, 'shrink');
    this.#checkOpen();
    const resized = resizeDevice(this.device, this.#backends, this.#mapping, size, mayShrink);
    this.#resizing = Promise.allSettled([this.#resizing, resized]).then(() => undefined);
    await resized;
    for (const listener of this.#resizeListeners) listener(size);
    if (!this.readOnly) await this.#ask(FLUSH);
  }

  /** Calls back with each new capacity, before `resize` resolves. Returns the undo. */
  onResize(callback: (sizeBytes: number) => void): () => void {
    this.#resizeListeners.add(callback);
    return () => this.#resizeListeners.delete(callback);
  }

  /** Counters since the disk was opened. */
  stats(): DiskStats {
    return readStats(this.device.engine);
  }

  /** Registers a server; `close` closes it first. Returns the undo. */
  attach(face: Face): () => void {
    const shares = Number(face.sharesBuffers ?? true);
    this.#faces.add(face);
    this.device.faces += shares;
    return () => {
      if (this.#faces.delete(face)) this.device.faces -= shares;
    };
  }

  /**
   * Stops the servers, finishes what is in flight, flushes, and releases files and locks. Closing
   * twice is fine. Rejects with the flush's or the file's error; it is closed all the same.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const faces = await Promise.allSettled([...this.#faces].map((face) => face.close()));
    await Promise.all([this.#resizing, this.#requests.drained()]);
    await this.device.drained();
    const end = await Promise.allSettled([this.#endWriting()]);
    this.device.later.stop();
    const files = await Promise.allSettled([
      ...this.#backends.map((backend) => backend?.close()),
      this.#tracer?.close(),
    ]);
    const failed = [...faces, ...end, ...files].find((step) => step.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  async #endWriting(): Promise<void> {
    if (this.readOnly) return;
    await endWriting(this.device, this.#mapping, () => this.#ask(FLUSH));
  }

  #writeFlags(options: WriteOptions): number {
    const barrier = toSwitch(options.barrier, 'barrier');
    if (barrier && !this.#hasBarriers) {
      throw invalid("this disk takes no barriers; open it with barrier: 'order' or 'durable'");
    }
    return (toSwitch(options.fua, 'fua') ? REQUEST_FUA : 0) | (barrier ? REQUEST_BARRIER : 0);
  }

  async #rangeRequest(
    op: number,
    flags: number,
    offset: ByteCount,
    length: ByteCount,
    operation: string,
    options: RequestOptions,
  ): Promise<void> {
    const start = toNumber(offset, 'offset');
    const bytes = toNumber(length, 'length');
    this.#checkRange(operation, start, bytes);
    const { signal } = options;
    await this.#ask({ op, flags, offset: start, length: bytes, operation, signal });
  }

  #blockStatus(
    offset: number,
    length: number,
    signal: AbortSignal | undefined,
  ): Promise<DiskExtent[]> {
    this.#checkOpen();
    const operation = 'block status';
    return this.#requests.request(
      { op: OP_BLOCK_STATUS, flags: 0, offset, length, operation, signal, ...EXTENT_TABLE },
      (count, address) => extentsAt(this.device.bytes, address, count, offset),
    );
  }

  #ask(ask: Ask): Promise<void> {
    return this.#requests.request(ask, () => undefined);
  }

  /**
   * Runs `work` on the pieces of a long transfer, all in line before any later call. Waits for all
   * of them, so that nothing touches the caller's array after it; the first failure is the answer.
   */
  async #inPieces(
    length: number,
    work: (at: number, size: number) => Promise<unknown>,
  ): Promise<void> {
    const pieceBytes = Math.min(PIECE_BYTES, this.device.arena.largestBytes);
    if (length <= pieceBytes) {
      if (length > 0) await work(0, length);
      return;
    }
    const pieces: Promise<unknown>[] = [];
    for (let at = 0; at < length; at += pieceBytes) {
      pieces.push(work(at, Math.min(pieceBytes, length - at)));
    }
    const failed = (await Promise.allSettled(pieces)).find(({ status }) => status === 'rejected');
    if (failed?.status === 'rejected') throw failed.reason;
  }

  #checkOpen(): void {
    if (this.#closing !== undefined) {
      throw new SluiceError('ERR_SLUICE_CLOSED', 'the disk is closed; open it again');
    }
  }

  #checkRange(operation: string, offset: number, length: number): void {
    this.#checkOpen();
    if (length <= this.size && offset <= this.size - length) return;
    throw new SluiceError(
      'ERR_SLUICE_OUT_OF_RANGE',
      `${operation} of ${length} bytes at offset ${offset}: the disk has ${this.size} bytes`,
      { operation, offset, length },
    );
  }
}
