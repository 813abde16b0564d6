/** The memory of a front-end: which guest addresses lie where, and which its own addresses are. */
import type { RawQueues } from '../virtio/raw-queues.ts';
import type { GuestMemory, Mapping } from './guest-memory.ts';
import { broken, type MemoryRegion } from './protocol.ts';

interface MappedRegion extends MemoryRegion {
  readonly mapping: Mapping;
}

export class Regions {
  readonly #memory: GuestMemory;
  readonly #queues: RawQueues;
  #regions: MappedRegion[] = [];

  constructor(memory: GuestMemory, queues: RawQueues) {
    this.#memory = memory;
    this.#queues = queues;
  }

  /** Regions that are mapped. */
  get count(): number {
    return this.#regions.length;
  }

  /** Maps a region and shows it to the engine. */
  add(region: MemoryRegion, fd: number): void {
    const { guestAddress, sizeBytes, fileOffset } = region;
    const mapping = this.#memory.map(fd, fileOffset, sizeBytes);
    try {
      const { address } = mapping;
      this.#queues.addRegion({ guestAddress, sizeBytes: Number(sizeBytes), address });
    } catch (error) {
      mapping.release();
      throw error;
    }
    this.#regions.push({ ...region, mapping });
  }

  /** Waits until nothing of it is in use. @throws SluiceError when there is none like it */
  async remove(wanted: MemoryRegion): Promise<void> {
    const found = this.#regions.find((region) => isSame(region, wanted));
    if (found === undefined) {
      throw broken(`a region at ${wanted.guestAddress} to be removed that it has not added`);
    }
    await this.#drop(found);
  }

  async removeAll(): Promise<void> {
    for (const region of this.#regions) await this.#drop(region);
  }

  /** The guest's name for an address of the front-end; undefined: it is in no region. */
  guestAddressOf(userAddress: bigint): bigint | undefined {
    const region = this.#regions.find((region) =>
      isInside(userAddress, region.userAddress, region.sizeBytes),
    );
    return region && userAddress - region.userAddress + region.guestAddress;
  }

  /** Bytes of guest memory, all in one region. */
  view(guestAddress: bigint, length: number): DataView {
    const last = guestAddress + BigInt(length) - 1n;
    const region = this.#regions.find(
      (region) =>
        isInside(guestAddress, region.guestAddress, region.sizeBytes) &&
        isInside(last, region.guestAddress, region.sizeBytes),
    );
    if (region === undefined)
      throw broken(`${length} bytes at address ${guestAddress}, which are in no region`);
    const skipped = Number(guestAddress - region.guestAddress);
    return new DataView(this.#memory.memory.buffer, region.mapping.address + skipped, length);
  }

  async #drop(region: MappedRegion): Promise<void> {
    await this.#queues.removeRegion(region.guestAddress);
    this.#regions = this.#regions.filter((other) => other !== region);
    region.mapping.release();
  }
}

function isInside(address: bigint, start: bigint, sizeBytes: bigint): boolean {
  return address >= start && address - start < sizeBytes;
}

function isSame(one: MemoryRegion, other: MemoryRegion): boolean {
  return (
    one.guestAddress === other.guestAddress &&
    one.sizeBytes === other.sizeBytes &&
    one.userAddress === other.userAddress
  );
}
