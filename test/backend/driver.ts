/** Drives a backend by hand: one memory, commands as promises. */

import { expect } from 'vitest';

import { ERRNO_ENOTSUP } from '../../src/abi/command.ts';
import type { Backend } from '../../src/backend/backend.ts';
import { EXTENT_FLAGS, EXTENT_LENGTH, EXTENT_SIZE, SEGMENT_SIZE } from '../../src/abi/request.ts';

export interface Answer {
  readonly errno: number;
  readonly value: number;
}

/** Where data goes when a test does not say: page-aligned, far from the tables. */
export const DATA = 65536;
const TABLES = 4096;
const MEMORY_PAGES = 144;

export class Driver {
  readonly backend: Backend;
  readonly memory: WebAssembly.Memory;
  readonly bytes: Uint8Array;
  /** Ids in the order of their answers. */
  readonly answered: number[] = [];
  readonly #view: DataView;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #nextId = 1;

  constructor(backend: Backend, memory = new WebAssembly.Memory({ initial: MEMORY_PAGES })) {
    this.backend = backend;
    this.memory = memory;
    this.bytes = new Uint8Array(memory.buffer);
    this.#view = new DataView(memory.buffer);
    backend.attach(memory, (id, errno, value) => {
      const resolve = this.#waiting.get(id);
      if (resolve === undefined) throw new Error(`command ${id} was answered twice`);
      this.#waiting.delete(id);
      this.answered.push(id);
      resolve({ errno, value });
    });
  }

  /** Commands without an answer so far. */
  get inFlight(): number {
    return this.#waiting.size;
  }

  run(start: (id: number) => void): Promise<Answer> {
    const id = this.#nextId++;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      start(id);
    });
  }

  async read(offset: number, length: number, address = DATA): Promise<Uint8Array> {
    const { errno } = await this.tryRead(offset, length, address);
    if (errno !== 0) throw new Error(`read failed with errno ${errno}`);
    return this.bytes.slice(address, address + length);
  }

  tryRead(offset: number, length: number, address = DATA): Promise<Answer> {
    return this.run((id) => this.backend.read(id, offset, length, 1, address));
  }

  async write(offset: number, data: Uint8Array, stable = false, address = DATA): Promise<number> {
    this.bytes.set(data, address);
    const answer = await this.run((id) =>
      this.backend.write(id, offset, data.length, 1, address, stable),
    );
    return answer.errno;
  }

  /** Segments of a command: [address, length] each. Returns the address of the table. */
  table(segments: readonly (readonly [number, number])[], at = TABLES): number {
    segments.forEach(([address, length], index) => {
      this.#view.setUint32(at + index * SEGMENT_SIZE, address, true);
      this.#view.setUint32(at + index * SEGMENT_SIZE + 4, length, true);
    });
    return at;
  }

  async zero(offset: number, length: number, mayUnmap = false, fast = false): Promise<number> {
    const answer = await this.run((id) =>
      this.backend.writeZeroes(id, offset, length, mayUnmap, fast),
    );
    return answer.errno;
  }

  async discard(offset: number, length: number): Promise<number> {
    return (await this.run((id) => this.backend.discard(id, offset, length))).errno;
  }

  async sync(): Promise<number> {
    return (await this.run((id) => this.backend.sync(id))).errno;
  }

  /** ENOTSUP where the backend has no such command. */
  async extend(sizeBytes: number): Promise<number> {
    const { backend } = this;
    if (backend.extend === undefined) return ERRNO_ENOTSUP;
    return (await this.run((id) => backend.extend?.(id, sizeBytes))).errno;
  }

  /** The extents as [length, flags]. */
  async status(offset: number, length: number): Promise<[number, number][]> {
    const answer = await this.run((id) => this.backend.blockStatus(id, offset, length, DATA));
    if (answer.errno !== 0) throw new Error(`block status failed with errno ${answer.errno}`);
    return Array.from({ length: answer.value }, (_, index) => {
      const entry = DATA + index * EXTENT_SIZE;
      const extentBytes = this.#view.getBigUint64(entry + EXTENT_LENGTH, true);
      return [Number(extentBytes), this.#view.getUint32(entry + EXTENT_FLAGS, true)];
    });
  }
}

/** Bytes that tell their place and their seed. */
export function pattern(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let index = 0; index < length; index++) bytes[index] = index * 31 + (index >> 8) + seed * 97;
  return bytes;
}

/** Compares long arrays quickly and says where they differ. */
export function expectSame(found: Uint8Array, expected: Uint8Array): void {
  if (Buffer.compare(found, expected) === 0) return;
  const at = expected.findIndex((byte, index) => byte !== found[index]);
  expect({ length: found.length, at, bytes: found.slice(at, at + 16) }).toEqual({
    length: expected.length,
    at,
    bytes: expected.slice(at, at + 16),
  });
}
