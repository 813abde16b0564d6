/**
 * A virtio-blk request of the mock guest: its memory, its chain, and what came back.
 *
 * All its pieces lie in one block with guard bytes before, between and behind them. What a request
 * looks like when it is sent is kept, so that `damage` can name every byte that changed although no
 * writable descriptor covers it: guards, header, data of a write.
 */
import type { Descriptor } from './driver-queue.ts';
import type { GuestMemory } from './memory.ts';

/** What guards, and what the device is to write, hold at first. */
export const GUARD_BYTE = 0xa5;

/** Where a request's bytes lie. */
export interface RequestBlock {
  readonly place: number;
  readonly lengthBytes: number;
}

/** See the head of the file. */
export class GuestRequest {
  readonly type: number;
  /** What was given to the ring. */
  readonly chain: readonly Descriptor[];
  /** Descriptors from this one on stand in an indirect table. */
  readonly indirectFrom: number;
  /** What the ring calls it; another request may have the same token once this one is used. */
  token = -1;
  /** The last writable byte of its chain; undefined until it is used, or where there is none. */
  status: number | undefined;
  /** Bytes that the device says to have written; undefined until it is used. */
  usedLength: number | undefined;
  /** @internal */
  readonly block: RequestBlock;

  readonly #memory: GuestMemory;
  readonly #statusBytes: number;
  #sent: Uint8Array | undefined;

  /** @internal Requests are made by BlkDriver. */
  constructor(
    memory: GuestMemory,
    type: number,
    chain: readonly Descriptor[],
    indirectFrom: number,
    block: RequestBlock,
    statusBytes: number,
  ) {
    this.#memory = memory;
    this.type = type;
    this.chain = chain;
    this.indirectFrom = indirectFrom;
    this.block = block;
    this.#statusBytes = statusBytes;
  }

  /** Whether it has come back. */
  get used(): boolean {
    return this.usedLength !== undefined;
  }

  /** What the device has written before the status: a copy. Valid until the request is released. */
  data(): Uint8Array {
    const written = this.#writable();
    return written.subarray(0, Math.max(written.length - this.#statusBytes, 0));
  }

  /**
   * Guest addresses of bytes that have changed since the request was sent and that no writable
   * descriptor covers. Empty without guards. Valid until the request is released.
   */
  damage(): bigint[] {
    const { place, lengthBytes } = this.block;
    if (this.#sent === undefined) return [];
    const now = this.#memory.bytes(place, lengthBytes);
    const found: bigint[] = [];
    for (const [offset, byte] of this.#sent.entries()) {
      if (now[offset] === byte || this.#mayChange(place + offset)) continue;
      found.push(this.#memory.addressOf(place + offset));
    }
    return found;
  }

  /** @internal What it looks like now is what `damage` compares with. */
  keep(): void {
    this.#sent = this.#memory.bytes(this.block.place, this.block.lengthBytes).slice();
  }

  /** @internal As if it had never been sent. */
  renew(): void {
    this.status = undefined;
    this.usedLength = undefined;
    const place = this.#statusPlace();
    if (place !== undefined) this.#memory.u8[place] = GUARD_BYTE;
  }

  /** @internal It has come back. */
  finish(usedLength: number): void {
    this.usedLength = usedLength;
    const place = this.#statusPlace();
    if (place !== undefined) this.status = this.#memory.u8[place];
  }

  #statusPlace(): number | undefined {
    for (let i = this.chain.length - 1; i >= 0; i--) {
      const descriptor = this.chain[i];
      if (descriptor === undefined || !descriptor.writable || descriptor.length === 0) continue;
      const start = this.#placeOf(descriptor);
      return start === undefined ? undefined : start + descriptor.length - 1;
    }
    return undefined;
  }

  #placeOf({ address, length }: Descriptor): number | undefined {
    return typeof address === 'number' ? address : this.#memory.placeOf(address, length);
  }

  #writable(): Uint8Array {
    const pieces = this.chain.flatMap((descriptor) => {
      const place = descriptor.writable ? this.#placeOf(descriptor) : undefined;
      return place === undefined ? [] : [this.#memory.bytes(place, descriptor.length)];
    });
    const all = new Uint8Array(pieces.reduce((total, piece) => total + piece.length, 0));
    let offset = 0;
    for (const piece of pieces) {
      all.set(piece, offset);
      offset += piece.length;
    }
    return all;
  }

  #mayChange(place: number): boolean {
    return this.chain.some((descriptor) => {
      const start = descriptor.writable ? this.#placeOf(descriptor) : undefined;
      return start !== undefined && place >= start && place < start + descriptor.length;
    });
  }
}
