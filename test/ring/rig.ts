/**
 * One engine with a virtio device, a guest in its memory, and a disk of bytes as its host. The
 * guest is the mock driver of src/testing/guest; the host answers commands at once or when it is
 * told.
 */

import {
  COMMAND_BLOCK_STATUS,
  COMMAND_DISCARD,
  COMMAND_READ,
  COMMAND_SYNC,
  COMMAND_WRITE,
  COMMAND_WRITE_ZEROES,
} from '../../src/abi/command.ts';
import { REGION_SIZE } from '../../src/abi/region.ts';
import { OP_RESET_QUEUE } from '../../src/abi/request.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import { BlkDriver, type BlkDriverOptions } from '../../src/testing/guest/blk.ts';
import type { DriverQueueConfig, RingFeatures } from '../../src/testing/guest/driver-queue.ts';
import { createDriverQueue } from '../../src/testing/guest/index.ts';
import { GuestMemory } from '../../src/testing/guest/memory.ts';
import { type CommandRecord, ENGINE_BASE, type EngineConfig, EngineDriver } from '../driver.ts';
import { type Build, type EngineExports, instantiate } from '../support/engine.ts';

const PAGE_BYTES = 65536;
const WORD_BITS = 32n;
const WORD_MASK = 0xffff_ffffn;
/** Where the device begins. */
const DEVICE = ENGINE_BASE + REGION_SIZE;

/** The words that the host sets (src/abi/virtio-device.ts). */
export interface DeviceWords {
  readonly flags: number;
  readonly blockSectors: number;
  readonly discardSectors: number;
  readonly discardSegments: number;
  readonly zeroesSectors: number;
  readonly zeroesSegments: number;
  readonly readError: number;
  readonly writeError: number;
  readonly id: string;
}

/** A running device with everything negotiated but a fixed framing. */
export const DEVICE_WORDS: DeviceWords = {
  flags: abi.DEVICE_RUNNING | abi.DEVICE_DISCARD | abi.DEVICE_WRITE_ZEROES,
  blockSectors: 1,
  discardSectors: 0x40_0000,
  discardSegments: 32,
  zeroesSectors: 0x40_0000,
  zeroesSegments: 32,
  readError: abi.ON_ERROR_REPORT,
  writeError: abi.ON_ERROR_REPORT,
  id: 'sluice-test-serial',
};

/** What a rig is made of; everything has a default. */
export interface RigOptions {
  readonly engine?: Partial<EngineConfig>;
  readonly device?: Partial<DeviceWords>;
  readonly queues?: number;
  readonly ramBytes?: number;
  /** Guest address of the RAM; above 4 GiB unless a test says otherwise. */
  readonly guestAddress?: bigint;
  /** The memory is shared, as the shared build wants it. */
  readonly shared?: boolean;
}

/** How a queue is made. */
export interface QueueOptions {
  readonly packed?: boolean;
  readonly size?: number;
  readonly features?: RingFeatures;
  readonly notifyOnEmpty?: boolean;
  readonly position?: number;
  readonly driver?: Omit<BlkDriverOptions, 'queue'>;
}

const DISK_BYTES = 2 * 1024 * 1024;
const RAM_BYTES = 4 * 1024 * 1024;

/** See the head of the file. */
export class GuestRig {
  readonly memory: WebAssembly.Memory;
  readonly exports: EngineExports;
  readonly engine: EngineDriver;
  readonly guest: GuestMemory;
  /** Place of the guest's RAM. */
  readonly ram: number;
  readonly ramBytes: number;
  readonly guestAddress: bigint;
  /** What the host has. */
  readonly disk: Uint8Array;
  /** Commands that are not answered. */
  readonly inFlight: CommandRecord[] = [];
  /** Every command that the host has seen. */
  readonly commands: CommandRecord[] = [];
  /** Chains of each queue of a copied guest that a call may take. */
  copiedChains = 0xffff;
  /** The errno of a command; 0: it is done. */
  errnoOf: (command: CommandRecord) => number = () => 0;
  readonly view: DataView;
  readonly #bytes: Uint8Array;

  constructor(build: Build, options: RigOptions = {}) {
    const queues = options.queues ?? 1;
    this.ramBytes = options.ramBytes ?? RAM_BYTES;
    this.guestAddress = options.guestAddress ?? 0x7f59_7f22_a000n;
    const shared = options.shared === true;
    const probe = createMemory(1, shared);
    const deviceBytes = instantiate(build, probe).deviceSize(queues) >>> 0;
    this.ram = Math.ceil((DEVICE + deviceBytes) / PAGE_BYTES) * PAGE_BYTES;
    const bytes = this.ram + this.ramBytes + PAGE_BYTES;
    this.memory = createMemory(Math.ceil(bytes / PAGE_BYTES), shared);
    this.view = new DataView(this.memory.buffer);
    this.#bytes = new Uint8Array(this.memory.buffer);
    this.exports = instantiate(build, this.memory);
    this.engine = new EngineDriver(this.exports, this.memory);
    this.disk = new Uint8Array(options.engine?.capacity ?? DISK_BYTES);
    const { length } = this.disk;
    for (let sector = 0; sector < length / 512; sector++) {
      this.disk.fill(sector & 0xff, sector * 512, sector * 512 + 512);
    }
    const config = { ...ENGINE, capacity: length, ...options.engine };
    if (!this.engine.init(config)) throw new Error('refused configuration');
    if (this.exports.initDevice(ENGINE_BASE, queues) !== 1) throw new Error('refused queues');
    this.setDevice(options.device ?? {});
    const mapped = this.map(this.guestAddress, this.ramBytes, this.ram);
    if (mapped !== 0) throw new Error(`refused RAM: ${mapped}`);
    const region = {
      guestAddress: this.guestAddress,
      sizeBytes: this.ramBytes,
      address: this.ram,
    };
    this.guest = new GuestMemory(this.memory, [region]);
  }

  /** Writes words of the device; the others keep their default. */
  setDevice(words: Partial<DeviceWords>): void {
    const all = { ...DEVICE_WORDS, ...words };
    const word = (at: number, value: number): void => this.view.setUint32(DEVICE + at, value, true);
    word(abi.DEVICE_FLAGS, all.flags);
    word(abi.DEVICE_BLOCK_SECTORS, all.blockSectors);
    word(abi.DEVICE_DISCARD_SECTORS, all.discardSectors);
    word(abi.DEVICE_DISCARD_SEGMENTS, all.discardSegments);
    word(abi.DEVICE_ZEROES_SECTORS, all.zeroesSectors);
    word(abi.DEVICE_ZEROES_SEGMENTS, all.zeroesSegments);
    word(abi.DEVICE_READ_ERROR, all.readError);
    word(abi.DEVICE_WRITE_ERROR, all.writeError);
    const id = new Uint8Array(20);
    id.set(new TextEncoder().encode(all.id).subarray(0, 20));
    this.#bytes.set(id, DEVICE + abi.DEVICE_ID);
  }

  /** Adds a region of guest memory; 0, or MAP_*. */
  map(guestAddress: bigint, sizeBytes: number | bigint, address: number): number {
    const size = BigInt(sizeBytes);
    return (
      this.exports.mapGuest(
        ENGINE_BASE,
        low(guestAddress),
        high(guestAddress),
        low(size),
        high(size),
        address,
      ) >>> 0
    );
  }

  /** Removes a region of guest memory; 0, or ATTACH_*. */
  unmap(guestAddress: bigint): number {
    return this.exports.unmapGuest(ENGINE_BASE, low(guestAddress), high(guestAddress)) >>> 0;
  }

  /** Makes a ring with a driver and attaches it. */
  addQueue(index = 0, options: QueueOptions = {}): BlkDriver {
    const queue = createDriverQueue(options.packed ?? false, {
      memory: this.guest,
      size: options.size ?? 64,
      ...(options.features === undefined ? {} : { features: options.features }),
      ...(options.position === undefined ? {} : { position: options.position }),
    });
    const { notifyOnEmpty = false } = options;
    const error = this.attach(index, queue.config(), notifyOnEmpty);
    if (error !== 0) throw new Error(`queue ${index} was refused: ${error}`);
    return new BlkDriver({ queue, ...options.driver });
  }

  /** Attaches a ring; 0, or ATTACH_*. */
  attach(index: number, config: DriverQueueConfig, notifyOnEmpty = false): number {
    const at = this.queueAt(index);
    const flags =
      (config.packed ? abi.QUEUE_PACKED : 0) |
      (config.indirect ? abi.QUEUE_INDIRECT : 0) |
      (config.eventIdx ? abi.QUEUE_EVENT_IDX : 0) |
      (config.inOrder ? abi.QUEUE_IN_ORDER : 0) |
      (notifyOnEmpty ? abi.QUEUE_NOTIFY_ON_EMPTY : 0);
    this.view.setUint32(at + abi.QUEUE_SIZE, config.size, true);
    this.view.setUint32(at + abi.QUEUE_FLAGS, flags, true);
    this.view.setBigUint64(at + abi.QUEUE_DESC, config.desc, true);
    this.view.setBigUint64(at + abi.QUEUE_DRIVER, config.driver, true);
    this.view.setBigUint64(at + abi.QUEUE_DEVICE, config.device, true);
    this.view.setUint32(at + abi.QUEUE_NEXT_AVAIL, config.position.nextAvail, true);
    this.view.setUint32(at + abi.QUEUE_NEXT_USED, config.position.nextUsed, true);
    return this.exports.attachQueue(ENGINE_BASE, index) >>> 0;
  }

  /** Address of a queue's words. */
  queueAt(index: number): number {
    return DEVICE + abi.DEVICE_QUEUES + index * abi.QUEUE_STRIDE;
  }

  /** A word of the device (DEVICE_*). */
  deviceWord(offset: number): number {
    return this.view.getUint32(DEVICE + offset, true);
  }

  /** A word of a queue (QUEUE_*). */
  queueWord(offset: number, index = 0): number {
    return this.view.getUint32(this.queueAt(index) + offset, true);
  }

  setQueueState(state: number, index = 0): number {
    return this.exports.setQueueState(ENGINE_BASE, index, state) >>> 0;
  }

  detach(index = 0): number {
    return this.exports.detachQueue(ENGINE_BASE, index) >>> 0;
  }

  /** Notifies of a queue; nothing is done before `pump` or `run`. */
  notify(index = 0): void {
    const kicked = this.view.getBigUint64(DEVICE + abi.DEVICE_KICKED, true);
    const bit = 1n << BigInt(index);
    this.view.setBigUint64(DEVICE + abi.DEVICE_KICKED, kicked | bit, true);
  }

  /** One call of the engine; the commands it emits wait in `inFlight`. */
  pump(): void {
    if ((this.deviceWord(abi.DEVICE_FLAGS) & abi.DEVICE_COPIED) !== 0) this.#copyAll();
    this.engine.pump();
    for (const command of this.engine.takeCommands()) {
      this.commands.push(command);
      this.inFlight.push(command);
    }
  }

  /** Executes a command in flight, the oldest unless `which` says so, and answers it. */
  answer(which = 0): void {
    const [command] = this.inFlight.splice(which, 1);
    if (command === undefined) throw new Error('no command is in flight');
    const errno = this.errnoOf(command);
    if (errno === 0) this.#execute(command);
    this.engine.result(command.id, errno);
  }

  /** Notifies, and runs engine and host until nothing is left to do. Returns the rounds it took. */
  run(index = 0): number {
    this.notify(index);
    return this.settle();
  }

  /** Runs engine and host until nothing is left to do. */
  settle(): number {
    for (let rounds = 1; rounds < 10_000; rounds++) {
      this.pump();
      if (this.inFlight.length === 0) return rounds;
      while (this.inFlight.length > 0) this.answer();
    }
    throw new Error('the engine does not come to rest');
  }

  /** Makes, sends and finishes what `make` adds to the driver's queue. */
  finish(driver: BlkDriver, index = 0): void {
    driver.publish();
    this.run(index);
    driver.poll();
  }

  /** Interrupts that the guest wants, a bit for each queue; they are taken. */
  takeInterrupts(): bigint {
    return this.#takeBits(abi.DEVICE_INTERRUPTS);
  }

  /** Queues that have been broken, a bit for each; they are taken. */
  takeBroken(): bigint {
    return this.#takeBits(abi.DEVICE_BROKEN);
  }

  /** Resets a queue as a host does: dead, ended, off. The commands in flight are answered. */
  reset(index = 0): void {
    this.setQueueState(abi.QUEUE_DEAD, index);
    const nothing = { flags: 0, segments: 0, data: 0, offset: 0, length: 0 };
    this.engine.submit({ tag: 1, op: OP_RESET_QUEUE, queue: index + 1, ...nothing });
    this.settle();
    this.engine.takeCompletions();
    const error = this.detach(index);
    if (error !== 0) throw new Error(`queue ${index} does not go off: ${error}`);
  }

  /** The engine may take every chain of a copied guest: mirror and memory are one here. */
  #copyAll(): void {
    const queues = this.deviceWord(abi.DEVICE_QUEUE_COUNT);
    for (let queue = 0; queue < queues; queue++) {
      this.view.setUint32(this.queueAt(queue) + abi.QUEUE_COPIED, this.copiedChains, true);
    }
  }

  #takeBits(offset: number): bigint {
    const bits = this.view.getBigUint64(DEVICE + offset, true);
    this.view.setBigUint64(DEVICE + offset, 0n, true);
    return bits;
  }

  #execute({ op, offset, length, table }: CommandRecord): void {
    switch (op) {
      case COMMAND_READ:
      case COMMAND_WRITE: {
        let at = offset;
        for (const segment of table) {
          const end = segment.address + segment.length;
          const memory = this.#bytes.subarray(segment.address, end);
          const disk = this.disk.subarray(at, at + segment.length);
          if (op === COMMAND_READ) memory.set(disk);
          else disk.set(memory);
          at += segment.length;
        }
        return;
      }
      case COMMAND_WRITE_ZEROES:
      case COMMAND_DISCARD:
        this.disk.fill(0, offset, offset + length);
        return;
      case COMMAND_SYNC:
        return;
      default:
        throw new Error(`command ${op}, ${COMMAND_BLOCK_STATUS} is not the guest's`);
    }
  }
}

const ENGINE: EngineConfig = {
  capacity: DISK_BYTES,
  blockSize: 1,
  depth: 64,
  mergeBytes: 1024 * 1024,
  readOnly: false,
  noFlush: false,
  wce: true,
};

function createMemory(pages: number, shared: boolean): WebAssembly.Memory {
  return new WebAssembly.Memory(
    shared ? { initial: pages, maximum: pages, shared } : { initial: pages },
  );
}

function low(value: bigint): number {
  return Number(value & WORD_MASK);
}

function high(value: bigint): number {
  return Number((value >> WORD_BITS) & WORD_MASK);
}
