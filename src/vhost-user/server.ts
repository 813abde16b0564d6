/**
 * A disk as a vhost-user-blk device: a back-end for QEMU and other virtual machine monitors.
 *
 * W1  One front-end at a time; the next one is heard when all of the last has ended. So a front-end
 *     may come back at once.
 * W2  The engine lives in a shared memory of up to 4 GiB, and the front-end's memory is mapped into
 *     it: rings are parsed and data is moved where the guest has them.
 */
import { randomBytes } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';

import { checkDisk } from '../arguments.ts';
import type { Disk } from '../disk.ts';
import { SluiceError } from '../errors.ts';
import { listen, toSocketPath } from '../nbd/listen.ts';
import { type Checks, checkOptions, isSignal, isSwitch, isText, isWhole } from '../options.ts';
import { type Ask, PromisedRequests } from '../promised-requests.ts';
import { footprintBytes, WASM_PAGE_SIZE } from '../place.ts';
import { makeVirtioBlk } from '../virtio/create-virtio-blk.ts';
import type { VirtioBlk } from '../virtio/virtio-blk.ts';
import type { VirtioBlkOptions } from '../virtio/virtio-blk-options.ts';
import { STATE_LATCHED } from '../abi/region.ts';
import { OP_FLUSH } from '../abi/request.ts';
import { VIRTQUEUES } from '../abi/virtio-device.ts';
import { CACHE_MODES } from '../cache-mode.ts';
import { FrontEnd } from './front-end.ts';
import { GuestMemory } from './guest-memory.ts';
import { loadVhostNative, type VhostNative } from './native.ts';
import type { ServedDisk } from './inflight-keeper.ts';
import { Session } from './session.ts';
import { WaitingRoom } from './waiting-room.ts';

/** How a disk is served. */
export interface VhostUserOptions {
  /** Path of the unix socket to create. */
  readonly socket: string;
  /** Request queues, 1 to 63. Default 63: QEMU wants one for each processor of the guest. */
  readonly queues?: number | undefined;
  /** What GET_ID answers, at most 20 bytes of UTF-8. Default: nothing. */
  readonly serial?: string | undefined;
  /** Logical block, a power of two from 512 to 65,536. Default 512. */
  readonly blockSizeBytes?: number | undefined;
  /**
   * Offers packed rings. Default false: user-mode Linux accepts them and then says that they begin
   * where none does.
   */
  readonly packed?: boolean | undefined;
  /** Aborting closes the server as `close` does. */
  readonly signal?: AbortSignal | undefined;
}

const OPTIONS: Checks<VhostUserOptions> = {
  socket: isText,
  queues: isWhole(1, VIRTQUEUES),
  serial: isText,
  blockSizeBytes: isWhole(512, 65_536),
  packed: isSwitch,
  signal: isSignal,
};

/** What a server tells its owner. */
export interface VhostUserEvents {
  /** A front-end is there. */
  connect: [];
  /** Another one waits, for a second now: one is served at a time. */
  waiting: [];
  /** It has gone, and everything of it has ended. */
  disconnect: [];
  /** What a front-end, its guest or the disk has done wrong. The server goes on. */
  fault: [error: Error];
}

const FLUSH: Ask = { op: OP_FLUSH, flags: 0, offset: 0, length: 0, operation: 'flush' };
/** QEMU's default for vhost-user-blk; a chain without INDIRECT must fit into the ring. */
const QUEUE_SIZE = 128;
/** Requests of the guest take no transfer buffers. */
const ARENA_BYTES = 65_536;
const MEMORY_PAGES = 65_536;

/** A running server. Made by `serveVhostUser`. */
export class VhostUserServer extends EventEmitter<VhostUserEvents> implements AsyncDisposable {
  /** Resolves when the server is closed, whoever closed it. */
  readonly closed: Promise<void>;
  readonly #listener: Server;
  readonly #blk: VirtioBlk;
  readonly #memory: GuestMemory;
  readonly #native: VhostNative;
  readonly #disk: ServedDisk;
  #session: Session | undefined;
  #frontEnd: FrontEnd | undefined;
  readonly #waiting: WaitingRoom;
  #turn: Promise<void> = Promise.resolve();
  #opening: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #resolveClosed: () => void = () => undefined;

  /** @internal */
  constructor(disk: Disk, options: VhostUserOptions, native: VhostNative) {
    super();
    const { queues = VIRTQUEUES, packed = false, serial, blockSizeBytes } = options;
    const { mapBytes, faces } = disk.device;
    // An NBD server keeps the buffers that it has.
    const arenaBytes = faces > 0 ? disk.device.arenaBytes : ARENA_BYTES;
    const place = { base: 0, virtqueues: queues, arenaBytes, mapBytes };
    const floor = footprintBytes(place);
    const initial = Math.ceil(floor / WASM_PAGE_SIZE);
    const memory = new WebAssembly.Memory({ initial, maximum: MEMORY_PAGES, shared: true });
    const requests = new PromisedRequests(disk.device);
    this.#native = native;
    this.#waiting = new WaitingRoom(native, () => {
      if (this.#closing === undefined) this.emit('waiting');
    });
    this.#disk = {
      id: randomBytes(8).readBigUInt64LE() | 1n,
      // New clusters of an image are in its tables later than their writes complete.
      losesWrites: mapBytes > 0 && disk.wce && !CACHE_MODES[disk.cacheMode].noFlush,
      // Not the disk's own: it serves nobody any more when it is being closed.
      flush: () => (disk.readOnly ? Promise.resolve() : requests.request(FLUSH, () => undefined)),
      distrust: () => disk.device.engine.store(STATE_LATCHED, 1),
    };
    this.#memory = new GuestMemory(memory, floor, native);
    const settings: VirtioBlkOptions = {
      memory,
      base: 0,
      arenaBytes,
      queues,
      queueSizeMax: QUEUE_SIZE,
      segMax: QUEUE_SIZE - 2,
      legacy: true,
      // Of transports that this one is not.
      features: { notificationData: false, ringReset: false, packed },
      serial,
      blockSizeBytes,
      onInterrupt: (kind, queue) => this.#session?.interrupt(kind, queue),
      onError: (error) => {
        this.#session?.failed();
        this.emit('fault', error);
      },
    };
    // Closing the disk ends the front-end in order, with its record, and not the device alone.
    this.#blk = makeVirtioBlk(disk, settings, () => this.close());
    this.closed = new Promise((resolve) => (this.#resolveClosed = resolve));
    this.#listener = createServer({ pauseOnConnect: true });
    this.#listener.on('connection', (socket) => this.#accept(socket));
    this.#listener.on('error', (error) => this.emit('fault', error));
  }

  /** Starts to listen. @internal */
  async open(socket: string): Promise<void> {
    this.#opening = listen(this.#listener, { path: socket });
    try {
      await this.#opening;
    } catch (error) {
      await this.#blk.close();
      throw error;
    }
  }

  /**
   * Accepts nobody any more, returns what is in flight, and lets go of the disk, which stays open.
   * It is flushed where the front-end keeps a record of what is in flight.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    await Promise.allSettled([this.#opening]);
    const ended = once(this.#listener, 'close');
    this.#listener.close();
    this.#frontEnd?.stop();
    await this.#turn;
    await ended;
    await this.#blk.close();
    this.#resolveClosed();
  }

  /** W1. */
  #accept(socket: Socket): void {
    if (!this.#waiting.enter(socket)) return;
    const last = this.#turn;
    this.#turn = last.then(() => {
      this.#waiting.leave(socket);
      return this.#serve(socket);
    });
  }

  async #serve(socket: Socket): Promise<void> {
    if (this.#closing !== undefined || socket.destroyed) {
      socket.destroy();
      return;
    }
    try {
      const frontEnd = new FrontEnd(socket, this.#native);
      this.#frontEnd = frontEnd;
      this.#session = new Session({
        frontEnd,
        blk: this.#blk,
        memory: this.#memory,
        native: this.#native,
        disk: this.#disk,
        report: (error) => this.#report(error),
      });
      this.emit('connect');
      await this.#session.run();
    } catch (error) {
      this.#report(error);
    } finally {
      socket.destroy();
      this.#session = undefined;
      this.#frontEnd = undefined;
      this.emit('disconnect');
    }
  }

  #report(error: unknown): void {
    this.emit('fault', error instanceof Error ? error : new Error(String(error)));
  }
}

/**
 * Serves a disk as a vhost-user-blk device. Resolves when front-ends can connect. Needs the
 * optional package koffi. Closing the disk closes the server first.
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED without koffi; ERR_SLUICE_INVALID_ARGUMENT;
 *   ERR_SLUICE_BUSY when the disk has a virtio device, or requests in flight; the system's error
 *   when the socket cannot be bound
 */
export async function serveVhostUser(
  disk: Disk,
  options: VhostUserOptions,
): Promise<VhostUserServer> {
  checkDisk(disk, 'serveVhostUser');
  checkOptions(options, OPTIONS, 'serveVhostUser');
  const { signal } = options;
  const socket = toSocketPath(options.socket);
  signal?.throwIfAborted();
  if (disk.closed) throw new SluiceError('ERR_SLUICE_CLOSED', 'the disk is closed; open it again');
  const server = new VhostUserServer(disk, options, loadVhostNative());
  await server.open(socket);
  const abort = (): void => void server.close();
  signal?.addEventListener('abort', abort, { once: true });
  void server.closed.then(() => {
    signal?.removeEventListener('abort', abort);
  });
  if (signal?.aborted === true) await server.close();
  return server;
}
