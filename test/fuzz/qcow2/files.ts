/** The host's files of a fuzzed mapping, in memory. */

import {
  COMMAND_BLOCK_STATUS,
  COMMAND_DISCARD,
  COMMAND_EXTEND,
  COMMAND_READ,
  COMMAND_SYNC,
  COMMAND_WRITE,
  ERRNO_EIO,
  ERRNO_ENOSPC,
} from '../../../src/abi/command.ts';
import * as map from '../../../src/abi/map.ts';
import {
  EXTENT_FLAGS,
  EXTENT_HOLE,
  EXTENT_LENGTH,
  EXTENT_SIZE,
  EXTENT_ZERO,
  SEGMENT_ADDRESS,
  SEGMENT_LENGTH,
  SEGMENT_SIZE,
} from '../../../src/abi/request.ts';
import { Violation } from '../ledger.ts';
import { type BuiltImage, CIPHER, noise, POISON } from './image.ts';
import type { Setup } from './input.ts';

/** A command as it stands in the ring. */
export interface Command {
  readonly id: number;
  readonly op: number;
  readonly flags: number;
  readonly file: number;
  readonly segments: number;
  readonly data: number;
  readonly offset: number;
  readonly length: number;
}

/** The image grows no further. */
const IMAGE_ROOM = 8 * 1048576;
/** A damaged refcount block may say that all of its clusters are in use; then come those behind. */
const LARGEST_IMAGE = 2 ** 40;
const DATA_ROOM = 6 * 1048576;
/** What is new where a file does not read as zeroes behind its end. */
const LEFTOVER = 0xcc;

/** See the head of the file. */
export class HostFiles {
  /** Bytes of the image file. */
  sizeBytes = 0;
  /** Extents of the last block status. */
  extents = 0;
  readonly image = new Uint8Array(IMAGE_ROOM);
  readonly view = new DataView(this.image.buffer);
  readonly data = new Uint8Array(DATA_ROOM);
  #dataBytes = 0;
  #built!: BuiltImage;
  #setup!: Setup;
  #clusterBytes = 512;
  readonly #memory: Uint8Array;
  readonly #memoryView: DataView;

  constructor(memory: WebAssembly.Memory) {
    this.#memory = new Uint8Array(memory.buffer);
    this.#memoryView = new DataView(memory.buffer);
  }

  /** The files of an image, as they are at first. */
  reset(built: BuiltImage, setup: Setup): void {
    this.#built = built;
    this.#setup = setup;
    this.#clusterBytes = 2 ** setup.shape.clusterBits;
    const { image, data } = built;
    const used = this.sizeBytes + this.#clusterBytes;
    this.image.set(image);
    if (used > image.length) this.image.fill(0, image.length, used);
    this.sizeBytes = image.length;
    this.data.set(data);
    this.data.fill(0, data.length, Math.max(data.length, this.#dataBytes));
    this.#dataBytes = data.length;
  }

  /** The file that a command is about: compressed and ciphered bytes are the image's. */
  static fileOf(file: number): number {
    return file >= map.FILE_COMPRESSED ? map.FILE_IMAGE : file;
  }

  /** Throws when a command leaves its file: it may end where the last cluster would. */
  checkBounds({ op, file, offset, length }: Command): void {
    if (op === COMMAND_SYNC || op === COMMAND_EXTEND || file === map.FILE_COMPRESSED) return;
    const cluster = this.#clusterBytes;
    const roundUp = (size: number): number => Math.ceil(size / cluster) * cluster;
    const end =
      file === map.FILE_BACKING
        ? this.#built.backing.length
        : roundUp(file === map.FILE_DATA ? this.#dataBytes : this.sizeBytes);
    if (offset + length > end || length === 0) {
      throw new Violation(
        `outside: command ${op} of file ${file} at ${offset}+${length} of ${end}`,
      );
    }
  }

  /** Does what a command says; returns an errno. `extents`: how many a block status has. */
  execute(command: Command, extents: number): number {
    switch (command.op) {
      case COMMAND_SYNC:
        return 0;
      case COMMAND_READ:
        return this.#read(command);
      case COMMAND_WRITE:
        this.#write(command, command.length);
        return 0;
      case COMMAND_BLOCK_STATUS:
        this.#fillStatus(command, extents);
        return 0;
      case COMMAND_EXTEND:
        return this.#extend(command.length);
      default:
        this.#fillZeroes(command, command.length);
        return 0;
    }
  }

  /** A write fails, after it has been done in part (1), or wholly (2). */
  fail(command: Command, torn: 0 | 1 | 2): void {
    const { op, length } = command;
    if (torn === 0 || op === COMMAND_READ || op === COMMAND_SYNC) return;
    const half = Math.floor(length / 1024) * 512;
    const bytes = torn === 2 ? length : half;
    if (op === COMMAND_WRITE) this.#write(command, bytes);
    else if (op === COMMAND_EXTEND) {
      if (torn === 2) this.#extend(length);
    } else if (op !== COMMAND_BLOCK_STATUS) this.#fillZeroes(command, bytes);
  }

  #extend(size: number): number {
    if (size > LARGEST_IMAGE) throw new Violation(`outside: EXTEND to ${size}`);
    if (size > IMAGE_ROOM - this.#clusterBytes) return ERRNO_ENOSPC;
    if (size <= this.sizeBytes) return 0;
    const holes = (this.#setup.mapFlags & map.MAP_NO_HOLES) === 0;
    this.image.fill(holes ? 0 : LEFTOVER, this.sizeBytes, size);
    this.sizeBytes = size;
    return 0;
  }

  #bytesOf(file: number): Uint8Array {
    if (file === map.FILE_BACKING) return this.#built.backing;
    return file === map.FILE_DATA ? this.data : this.image;
  }

  #read({ file, offset, length, segments, data }: Command): number {
    if (file === map.FILE_COMPRESSED) return this.#readPlain(offset, data);
    const bytes = this.#bytesOf(file);
    const cipher = file === map.FILE_CIPHERED ? CIPHER : 0;
    this.#each(segments, data, length, (at, address, size) => {
      this.#memory.set(bytes.subarray(offset + at, offset + at + size), address);
      if (cipher === 0) return;
      for (let i = address; i < address + size; i++) this.#memory[i]! ^= cipher;
    });
    return 0;
  }

  /** What is not compressed there cannot be read, or is read as anything. */
  #readPlain(offset: number, data: number): number {
    const plain = this.#built.plain.get(offset);
    if (plain === undefined && (offset & 1) !== 0) return ERRNO_EIO;
    this.#memory.set(plain ?? noise(offset, this.#clusterBytes), data);
    return 0;
  }

  #write({ file, offset, segments, data }: Command, length: number): void {
    const bytes = this.#bytesOf(file);
    this.#each(segments, data, length, (at, address, size) => {
      bytes.set(this.#memory.subarray(address, address + size), offset + at);
    });
    if (file === map.FILE_CIPHERED) {
      for (let at = offset; at < offset + length; at++) bytes[at]! ^= CIPHER;
    }
    this.#grow(file, offset + length);
  }

  #fillZeroes({ op, file, offset }: Command, length: number): void {
    const zero = file === map.FILE_CIPHERED ? CIPHER : 0;
    // What nothing points to may become anything; a data file has holes.
    const byte = op === COMMAND_DISCARD && file !== map.FILE_DATA ? POISON : zero;
    this.#bytesOf(file).fill(byte, offset, offset + length);
    this.#grow(file, offset + length);
  }

  #grow(file: number, end: number): void {
    const isImage = file === map.FILE_IMAGE || file === map.FILE_CIPHERED;
    if (isImage) this.sizeBytes = Math.max(this.sizeBytes, end);
  }

  /** Zeroes and data as they are, in pieces of 4 KiB; the last of `extents` is data. */
  #fillStatus({ offset, length, data }: Command, extents: number): void {
    const { backing } = this.#built;
    const view = this.#memoryView;
    let done = 0;
    let count = 0;
    while (done < length && count < extents) {
      const isLast = count === extents - 1;
      const bytes = isLast
        ? length - done
        : Math.min(length - done, 4096 - ((offset + done) % 4096));
      const isZero =
        !isLast && backing[offset + done] === 0 && isAllZero(backing, offset + done, bytes);
      const entry = data + count * EXTENT_SIZE;
      view.setBigUint64(entry + EXTENT_LENGTH, BigInt(bytes), true);
      view.setBigUint64(
        entry + EXTENT_FLAGS,
        isZero ? BigInt(EXTENT_ZERO | EXTENT_HOLE) : 0n,
        true,
      );
      done += bytes;
      count += 1;
    }
    this.extents = count;
  }

  #each(
    segments: number,
    data: number,
    length: number,
    move: (at: number, address: number, size: number) => void,
  ): void {
    if (segments === 1) return move(0, data, length);
    let at = 0;
    for (let entry = data; at < length; entry += SEGMENT_SIZE) {
      const address = this.#memoryView.getUint32(entry + SEGMENT_ADDRESS, true);
      const size = this.#memoryView.getUint32(entry + SEGMENT_LENGTH, true);
      move(at, address, Math.min(size, length - at));
      at += size;
    }
  }
}

function isAllZero(bytes: Uint8Array, offset: number, length: number): boolean {
  return bytes.subarray(offset, offset + length).every((byte) => byte === 0);
}
