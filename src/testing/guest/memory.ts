/**
 * The memory of a mock guest: regions of guest-physical addresses that lie somewhere in one buffer,
 * usually a WebAssembly.Memory that an engine or an emulator uses too.
 *
 * A byte has two names. Its guest address is a bigint, as devices see it: up to 2^64 - 1, and not
 * flat. Its place is a number: the byte's offset in the buffer. Whoever takes a `GuestPlace` takes
 * either, and the type says which one it is. Drivers keep places: no request costs a BigInt.
 *
 * Views are as little-endian as WebAssembly and VIRTIO are; so are all hosts that run this.
 */
import { MAP_ALIGN } from '../../abi/virtio-device.ts';
import { invalid } from '../../arguments.ts';
import { SluiceError } from '../../errors.ts';

/** A byte of the guest: a bigint is its guest address, a number its offset in the buffer. */
export type GuestPlace = number | bigint;

/** One range of guest addresses, and where it lies. */
export interface GuestMemoryRegion {
  /** Guest-physical address of its first byte. */
  readonly guestAddress: bigint;
  /** Its length in bytes. */
  readonly sizeBytes: number;
  /** Offset of its first byte in the buffer; equal to guestAddress modulo 16. */
  readonly address: number;
}

/** What holds the bytes. A memory that can grow is given itself or as a function. */
export type GuestBytes =
  | ArrayBufferLike
  | { readonly buffer: ArrayBufferLike }
  | (() => ArrayBufferLike);

/** A region with its guest address in two words, and what the allocator knows of it. */
interface Region extends GuestMemoryRegion {
  readonly end: number;
  readonly low: number;
  readonly high: number;
  /** The first place that was never allocated. */
  cursor: number;
}

const ADDRESSES = 1n << 64n;
const WORD = 0x1_0000_0000;
/** Blocks are multiples of this. */
const BLOCK = 16;
const BLOCK_BITS = 4;

/** See the head of the file; also an allocator of the regions' bytes. */
export class GuestMemory {
  /** The regions, in the order in which memory is allocated from them. */
  readonly regions: readonly GuestMemoryRegion[];
  /** The whole buffer as bytes. Like the other views it is renewed by `refresh`. */
  u8: Uint8Array = new Uint8Array(0);
  /** The whole buffer as u16. */
  u16: Uint16Array = new Uint16Array(0);
  /** The whole buffer as u32. */
  u32: Uint32Array = new Uint32Array(0);

  readonly #buffer: () => ArrayBufferLike;
  readonly #regions: readonly Region[];
  readonly #free = new Map<number, number[]>();
  #current: ArrayBufferLike | undefined;
  #view: DataView = new DataView(new ArrayBuffer(0));
  /** The region that was asked for last. */
  #last: Region;

  /**
   * @param bytes the buffer, a view of it, a WebAssembly.Memory, or a function that returns the
   * buffer of the moment
   * @param regions default: the whole buffer or view, at guest address 0
   * @throws SluiceError `ERR_SLUICE_INVALID_ARGUMENT` when a region does not fit the buffer or is
   * not aligned, or when two overlap
   */
  constructor(bytes: GuestBytes, regions: readonly GuestMemoryRegion[] = [wholeOf(bytes)]) {
    this.#buffer = bufferOf(bytes);
    this.refresh();
    this.#regions = regions.map((region) => checkedRegion(region, this.u8.length));
    this.regions = this.#regions;
    const [first] = this.#regions;
    if (first === undefined) throw invalid('guest memory needs a region');
    this.#last = first;
    checkApart(this.#regions);
  }

  /** Makes the views anew when the buffer is another one, as after a growth of the memory. */
  refresh(): void {
    const buffer = this.#buffer();
    if (buffer === this.#current) return;
    this.#current = buffer;
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer, 0, Math.floor(buffer.byteLength / 2));
    this.u32 = new Uint32Array(buffer, 0, Math.floor(buffer.byteLength / 4));
    this.#view = new DataView(buffer);
  }

  /** The guest address of a place. */
  addressOf(place: number): bigint {
    const region = this.#regionOf(place);
    return region.guestAddress + BigInt(place - region.address);
  }

  /** The place of a guest address, or undefined when no region holds all of these bytes. */
  placeOf(address: bigint, lengthBytes = 1): number | undefined {
    for (const region of this.#regions) {
      const offset = address - region.guestAddress;
      if (offset >= 0n && offset + BigInt(lengthBytes) <= BigInt(region.sizeBytes)) {
        return region.address + Number(offset);
      }
    }
    return undefined;
  }

  /** The place of either name; a guest address must be in one region with all of these bytes. */
  resolve(where: GuestPlace, lengthBytes = 1): number {
    if (typeof where === 'number') return where;
    const place = this.placeOf(where, lengthBytes);
    if (place !== undefined) return place;
    throw outOfRange(`guest address 0x${where.toString(16)}, ${lengthBytes} bytes, is not mapped`);
  }

  /** Writes the guest address of `where` as a u64 to a place that is a multiple of 4. */
  storeAddress(at: number, where: GuestPlace): void {
    const word = at >>> 2;
    if (typeof where === 'bigint') {
      this.u32[word] = Number(where & 0xffff_ffffn);
      this.u32[word + 1] = Number((where >> 32n) & 0xffff_ffffn);
      return;
    }
    const region = this.#regionOf(where);
    const low = region.low + (where - region.address);
    this.u32[word] = low;
    this.u32[word + 1] = region.high + (low >= WORD ? 1 : 0);
  }

  /** The first place from this one on whose guest address is a multiple of `align`. */
  aligned(place: number, align: number): number {
    return place + padding(this.#low(place), align);
  }

  /** Reads a u8. */
  getU8(where: GuestPlace): number {
    const place = this.#reach(where, 1);
    return this.#view.getUint8(place);
  }

  /** Reads a u16. */
  getU16(where: GuestPlace): number {
    const place = this.#reach(where, 2);
    return this.#view.getUint16(place, true);
  }

  /** Reads a u32. */
  getU32(where: GuestPlace): number {
    const place = this.#reach(where, 4);
    return this.#view.getUint32(place, true);
  }

  /** Reads a u64. */
  getU64(where: GuestPlace): bigint {
    const place = this.#reach(where, 8);
    return this.#view.getBigUint64(place, true);
  }

  /** Writes a u8. */
  setU8(where: GuestPlace, value: number): void {
    const place = this.#reach(where, 1);
    this.#view.setUint8(place, value);
  }

  /** Writes a u16. */
  setU16(where: GuestPlace, value: number): void {
    const place = this.#reach(where, 2);
    this.#view.setUint16(place, value, true);
  }

  /** Writes a u32. */
  setU32(where: GuestPlace, value: number): void {
    const place = this.#reach(where, 4);
    this.#view.setUint32(place, value, true);
  }

  /** Writes a u64. */
  setU64(where: GuestPlace, value: bigint): void {
    const place = this.#reach(where, 8);
    this.#view.setBigUint64(place, value, true);
  }

  /** A view of some bytes; it dies when the memory grows. */
  bytes(where: GuestPlace, lengthBytes: number): Uint8Array {
    const place = this.#reach(where, lengthBytes);
    return this.u8.subarray(place, place + lengthBytes);
  }

  /** Copies bytes into the guest. */
  write(where: GuestPlace, bytes: Uint8Array): void {
    this.bytes(where, bytes.length).set(bytes);
  }

  /**
   * Takes memory and returns its place; what it holds is left as it is.
   * @param align a power of two, for the guest address; at least 16
   * @param region take it from this one of `regions` only
   * @throws SluiceError `ERR_SLUICE_OUT_OF_RANGE` when there is no room
   */
  allocate(lengthBytes: number, align: number = BLOCK, region?: number): number {
    const size = blockSize(lengthBytes);
    const freed = region === undefined ? this.#free.get(size) : undefined;
    const reused = freed?.at(-1);
    if (freed !== undefined && reused !== undefined && this.#low(reused) % align === 0) {
      freed.pop();
      return reused;
    }
    const from = region === undefined ? this.#regions : this.#regions.slice(region, region + 1);
    for (const part of from) {
      const low = part.low + (part.cursor - part.address);
      const place = part.cursor + padding(low, Math.max(align, BLOCK));
      if (place + size > part.end) continue;
      part.cursor = place + size;
      return place;
    }
    throw outOfRange(`the guest's memory has no room for ${lengthBytes} bytes; free some or reset`);
  }

  /** The same; the bytes are zero. */
  allocateCleared(lengthBytes: number, align: number = BLOCK): number {
    const place = this.allocate(lengthBytes, align);
    this.bytes(place, lengthBytes).fill(0);
    return place;
  }

  /** Gives back what `allocate` returned for this length. */
  free(place: number, lengthBytes: number): void {
    const size = blockSize(lengthBytes);
    const freed = this.#free.get(size);
    if (freed === undefined) this.#free.set(size, [place]);
    else freed.push(place);
  }

  /** Gives everything back at once. */
  reset(): void {
    this.#free.clear();
    for (const region of this.#regions) region.cursor = region.address;
  }

  #reach(where: GuestPlace, lengthBytes: number): number {
    this.refresh();
    return this.resolve(where, lengthBytes);
  }

  #low(place: number): number {
    const region = this.#regionOf(place);
    return region.low + (place - region.address);
  }

  #regionOf(place: number): Region {
    const last = this.#last;
    if (place >= last.address && place < last.end) return last;
    for (const region of this.#regions) {
      if (place >= region.address && place < region.end) return (this.#last = region);
    }
    throw outOfRange(`place ${place} is in no region of the guest's memory`);
  }
}

function bufferOf(bytes: GuestBytes): () => ArrayBufferLike {
  if (typeof bytes === 'function') return bytes;
  return 'buffer' in bytes ? () => bytes.buffer : () => bytes;
}

function wholeOf(bytes: GuestBytes): GuestMemoryRegion {
  const view = typeof bytes === 'object' && ArrayBuffer.isView(bytes);
  return {
    guestAddress: 0n,
    sizeBytes: view ? bytes.byteLength : bufferOf(bytes)().byteLength,
    address: view ? bytes.byteOffset : 0,
  };
}

function checkedRegion(region: GuestMemoryRegion, bufferBytes: number): Region {
  const { guestAddress, sizeBytes, address } = region;
  const name = `region 0x${guestAddress.toString(16)}`;
  if (guestAddress < 0n || guestAddress + BigInt(sizeBytes) > ADDRESSES) {
    throw invalid(`${name} of ${sizeBytes} bytes runs past the 64-bit addresses`);
  }
  if (!(sizeBytes > 0) || address < 0 || address + sizeBytes > bufferBytes) {
    throw invalid(`${name} is not in the buffer: ${sizeBytes} bytes at ${address}`);
  }
  if (guestAddress % BigInt(MAP_ALIGN) !== BigInt(address % MAP_ALIGN)) {
    throw invalid(`${name} and its place ${address} differ modulo ${MAP_ALIGN}`);
  }
  return {
    guestAddress,
    sizeBytes,
    address,
    end: address + sizeBytes,
    low: Number(guestAddress & 0xffff_ffffn),
    high: Number(guestAddress >> 32n),
    cursor: address,
  };
}

function checkApart(regions: readonly Region[]): void {
  for (const [index, a] of regions.entries()) {
    for (const b of regions.slice(index + 1)) {
      const places = a.address < b.end && b.address < a.end;
      const aEnd = a.guestAddress + BigInt(a.sizeBytes);
      const bEnd = b.guestAddress + BigInt(b.sizeBytes);
      if (places || (a.guestAddress < bEnd && b.guestAddress < aEnd)) {
        throw invalid(`regions ${index} and ${regions.indexOf(b)} of the guest's memory overlap`);
      }
    }
  }
}

/** Sizes are rounded up to one of eight steps between powers of two, so that blocks fit again. */
function blockSize(lengthBytes: number): number {
  const size = Math.max(lengthBytes, 1);
  const step = 1 << Math.max(BLOCK_BITS, 28 - Math.clz32(size - 1));
  return Math.ceil(size / step) * step;
}

function padding(address: number, align: number): number {
  const past = address % align;
  return past === 0 ? 0 : align - past;
}

function outOfRange(message: string): SluiceError {
  return new SluiceError('ERR_SLUICE_OUT_OF_RANGE', message);
}
