/**
 * The device's side of both rings in the plainest words, for tests of the driver's side: bigint
 * addresses, one field at a time, the formulas as the digests of the standard print them.
 */
import type {
  DriverQueueConfig,
  GuestMemory,
  UsedBuffer,
} from '../../../src/testing/guest/index.ts';

export interface SeenDescriptor {
  readonly address: bigint;
  readonly length: number;
  readonly writable: boolean;
}

export interface SeenChain {
  /** What it is given back with. */
  readonly id: number;
  /** Descriptors of the ring that it takes. */
  readonly slots: number;
  readonly descriptors: readonly SeenDescriptor[];
}

export interface PlainDevice {
  /** The next available chain. */
  take(): SeenChain | undefined;
  /** Gives chains back with one used entry, of the last one. Several: with IN_ORDER only. */
  use(chains: readonly SeenChain[], length: number): void;
  /** Whether the driver wants an interrupt for what was used since this was asked last. */
  interrupt(): boolean;
  setKicks(on: boolean): void;
  /** With EVENT_IDX: a kick is wanted when so many more entries are available. */
  kickAfter(count: number): void;
}

export function createPlainDevice(memory: GuestMemory, config: DriverQueueConfig): PlainDevice {
  return config.packed ? new PlainPacked(memory, config) : new PlainSplit(memory, config);
}

/** What a used entry of one chain becomes at the driver. */
export function usedAs(chain: SeenChain, length: number): UsedBuffer {
  return { token: chain.id, length, known: true };
}

const u16 = (value: number): number => value & 0xffff;

class PlainSplit implements PlainDevice {
  readonly #memory: GuestMemory;
  readonly #config: DriverQueueConfig;
  #nextAvail: number;
  #usedIdx: number;
  #signalled: number;

  constructor(memory: GuestMemory, config: DriverQueueConfig) {
    this.#memory = memory;
    this.#config = config;
    this.#nextAvail = config.position.nextAvail;
    this.#usedIdx = this.#signalled = config.position.nextUsed;
  }

  take(): SeenChain | undefined {
    const { driver, desc, size } = this.#config;
    if (this.#memory.getU16(driver + 2n) === this.#nextAvail) return undefined;
    const id = this.#memory.getU16(driver + 4n + 2n * BigInt(this.#nextAvail % size));
    this.#nextAvail = u16(this.#nextAvail + 1);
    const descriptors: SeenDescriptor[] = [];
    let slots = 0;
    for (let index = id, more = true; more;) {
      const { flags, next, ...descriptor } = this.#read(desc, index);
      slots++;
      more = (flags & 1) !== 0;
      index = next;
      if ((flags & 4) === 0) descriptors.push(descriptor);
      else descriptors.push(...this.#table(descriptor.address, descriptor.length / 16));
    }
    return { id, slots, descriptors };
  }

  use(chains: readonly SeenChain[], length: number): void {
    const { device, size } = this.#config;
    const element = device + 4n + 8n * BigInt(this.#usedIdx % size);
    this.#memory.setU32(element, chains.at(-1)!.id);
    this.#memory.setU32(element + 4n, length);
    this.#usedIdx = u16(this.#usedIdx + chains.length);
    this.#memory.setU16(device + 2n, this.#usedIdx);
  }

  interrupt(): boolean {
    const { driver, size, eventIdx } = this.#config;
    const old = this.#signalled;
    this.#signalled = this.#usedIdx;
    if (!eventIdx) return old !== this.#usedIdx && (this.#memory.getU16(driver) & 1) === 0;
    const event = this.#memory.getU16(driver + 4n + 2n * BigInt(size));
    return u16(this.#usedIdx - event - 1) < u16(this.#usedIdx - old);
  }

  setKicks(on: boolean): void {
    if (this.#config.eventIdx) this.#event(on ? this.#nextAvail : this.#nextAvail - 1);
    else this.#memory.setU16(this.#config.device, on ? 0 : 1);
  }

  kickAfter(count: number): void {
    this.#event(this.#nextAvail + count - 1);
  }

  #event(index: number): void {
    const { device, size } = this.#config;
    this.#memory.setU16(device + 4n + 8n * BigInt(size), u16(index));
  }

  #table(table: bigint, entries: number): SeenDescriptor[] {
    const found: SeenDescriptor[] = [];
    for (let index = 0, more = true; more && found.length < entries;) {
      const { flags, next, ...descriptor } = this.#read(table, index);
      found.push(descriptor);
      more = (flags & 1) !== 0;
      index = next;
    }
    return found;
  }

  #read(table: bigint, index: number): SeenDescriptor & { flags: number; next: number } {
    const at = table + 16n * BigInt(index);
    const flags = this.#memory.getU16(at + 12n);
    return {
      address: this.#memory.getU64(at),
      length: this.#memory.getU32(at + 8n),
      writable: (flags & 2) !== 0,
      flags,
      next: this.#memory.getU16(at + 14n),
    };
  }
}

/** A place in the ring and the wrap counter there. */
interface Lap {
  offset: number;
  wrap: number;
}

class PlainPacked implements PlainDevice {
  readonly #memory: GuestMemory;
  readonly #config: DriverQueueConfig;
  readonly #avail: Lap;
  readonly #used: Lap;
  /** Offset at the last decision, and whether the used side has passed the end since. */
  #signalled: number;
  #wrapped = false;
  #anyUsed = false;

  constructor(memory: GuestMemory, config: DriverQueueConfig) {
    this.#memory = memory;
    this.#config = config;
    this.#avail = lapOf(config.position.nextAvail);
    this.#used = lapOf(config.position.nextUsed);
    this.#signalled = this.#used.offset;
  }

  take(): SeenChain | undefined {
    const first = this.#read(this.#config.desc, this.#avail.offset);
    if (!this.#isAvailable(first.flags)) return undefined;
    const descriptors: SeenDescriptor[] = [];
    for (let slots = 1; ; slots++) {
      const { flags, id, ...descriptor } = this.#read(this.#config.desc, this.#avail.offset);
      if (!this.#isAvailable(flags)) throw new Error('a list with a descriptor of another lap');
      this.#advance(this.#avail, 1);
      if ((flags & 4) === 0) descriptors.push(descriptor);
      else descriptors.push(...this.#table(descriptor.address, descriptor.length / 16));
      if ((flags & 1) === 0) return { id, slots, descriptors };
    }
  }

  use(chains: readonly SeenChain[], length: number): void {
    const at = this.#config.desc + 16n * BigInt(this.#used.offset);
    this.#memory.setU16(at + 12n, chains.at(-1)!.id);
    this.#memory.setU32(at + 8n, length);
    this.#memory.setU16(at + 14n, (length > 0 ? 2 : 0) | (this.#used.wrap * 0x8080));
    for (const chain of chains) {
      if (this.#advance(this.#used, chain.slots)) this.#wrapped = true;
    }
    this.#anyUsed = true;
  }

  interrupt(): boolean {
    const { driver, size, eventIdx } = this.#config;
    const old = this.#wrapped ? this.#signalled - size : this.#signalled;
    const any = this.#anyUsed;
    this.#anyUsed = this.#wrapped = false;
    this.#signalled = this.#used.offset;
    const flags = this.#memory.getU16(driver + 2n);
    if (!any || flags === 1) return false;
    if (flags === 0 || !eventIdx) return true;
    const event = lapOf(this.#memory.getU16(driver));
    const offset = event.wrap === this.#used.wrap ? event.offset : event.offset - size;
    return u16(this.#used.offset - offset - 1) < u16(this.#used.offset - old);
  }

  setKicks(on: boolean): void {
    if (on && this.#config.eventIdx) this.kickAfter(1);
    else this.#memory.setU16(this.#config.device + 2n, on ? 0 : 1);
  }

  kickAfter(count: number): void {
    const event = { ...this.#avail };
    this.#advance(event, count - 1);
    this.#memory.setU16(this.#config.device, event.offset | (event.wrap << 15));
    this.#memory.setU16(this.#config.device + 2n, 2);
  }

  #isAvailable(flags: number): boolean {
    return ((flags >> 7) & 1) === this.#avail.wrap && flags >> 15 !== this.#avail.wrap;
  }

  #advance(lap: Lap, slots: number): boolean {
    lap.offset += slots;
    if (lap.offset < this.#config.size) return false;
    lap.offset -= this.#config.size;
    lap.wrap ^= 1;
    return true;
  }

  #table(table: bigint, entries: number): SeenDescriptor[] {
    return Array.from({ length: entries }, (_, index) => {
      const { flags: _flags, id: _id, ...descriptor } = this.#read(table, index);
      return descriptor;
    });
  }

  #read(table: bigint, index: number): SeenDescriptor & { flags: number; id: number } {
    const at = table + 16n * BigInt(index);
    const flags = this.#memory.getU16(at + 14n);
    return {
      address: this.#memory.getU64(at),
      length: this.#memory.getU32(at + 8n),
      writable: (flags & 2) !== 0,
      flags,
      id: this.#memory.getU16(at + 12n),
    };
  }
}

function lapOf(position: number): Lap {
  return { offset: position & 0x7fff, wrap: position >> 15 };
}
