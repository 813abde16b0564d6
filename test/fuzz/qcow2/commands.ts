/**
 * The commands at the host of a fuzzed mapping, and what must be true of each when it comes:
 *
 *   (a) its id is free, its file is there, its range is in the file, its memory is the request's or
 *       the mapping's;
 *   (b) nothing that is written is at the host twice: no two commands of one file overlap when one
 *       of them changes it, as long as the tables of the image are sound;
 *   (c) guest data hits no metadata (guard.ts), and is not written at all once the image is known
 *       to be corrupt.
 */

import * as abi from '../../../src/abi/command.ts';
import { COMMAND_SLOTS, FILES, METADATA_IDS, RING_ENTRIES } from '../../../src/abi/limits.ts';
import * as map from '../../../src/abi/map.ts';
import * as region from '../../../src/abi/region.ts';
import { SEGMENT_ADDRESS, SEGMENT_LENGTH, SEGMENT_SIZE } from '../../../src/abi/request.ts';
import type { Digest } from '../commands.ts';
import { Violation } from '../ledger.ts';
import { type Command, HostFiles } from './files.ts';
import type { Guard } from './guard.ts';
import type { Setup } from './input.ts';
import { ARENA, ARENA_END, MAP, REGION } from './layout.ts';

const HIGH_WORD = 0x1_0000_0000;
const IDS = METADATA_IDS + map.MAP_IOS;

/** See the head of the file. */
export class Commands {
  /** Those at the host, first come first. */
  readonly out: Command[] = [];
  readonly #view: DataView;
  readonly #files: HostFiles;
  readonly #guard: Guard;
  readonly #digest: Digest;
  #setup!: Setup;
  #isSound = true;
  #mapEnd = MAP;
  #dataOut = 0;

  constructor(view: DataView, files: HostFiles, guard: Guard, digest: Digest) {
    this.#view = view;
    this.#files = files;
    this.#guard = guard;
    this.#digest = digest;
  }

  /** Forgets everything. `isSound`: nobody has damaged the image. */
  reset(setup: Setup, mapBytes: number, isSound: boolean): void {
    this.out.length = 0;
    this.#dataOut = 0;
    this.#setup = setup;
    this.#mapEnd = MAP + mapBytes;
    this.#isSound = isSound;
  }

  /** Takes the command at a position of the ring. `wasCorrupt`: before this pump. */
  take(position: number, wasCorrupt: boolean): Command {
    const command = this.#read(position);
    const { id, op, file, offset, length } = command;
    this.#digest.add(id);
    this.#digest.add(op | (command.flags << 8) | (file << 16));
    this.#digest.add(offset % HIGH_WORD);
    this.#digest.add(length % HIGH_WORD);
    const isTwice = this.out.some((other) => other.id === id);
    if (id >= IDS || isTwice) throw new Violation(`C1: the id ${id}`);
    this.#checkKind(command);
    this.#files.checkBounds(command);
    if (op <= abi.COMMAND_BLOCK_STATUS) this.#checkRivals(command);
    const isGuest = id < COMMAND_SLOTS && changes(op);
    if (isGuest && wasCorrupt) throw new Violation(`O2: command ${op} of a corrupt image`);
    if (isGuest && HostFiles.fileOf(file) === map.FILE_IMAGE) this.#guard.check(command);
    this.#checkMemory(command);
    if (id < COMMAND_SLOTS) this.#dataOut += 1;
    if (this.#dataOut > this.#setup.depth) throw new Violation('E2: past the depth');
    this.out.push(command);
    return command;
  }

  /** Takes the command at a place of those at the host away. */
  close(at: number): Command {
    const [command] = this.out.splice(at, 1) as [Command];
    if (command.id < COMMAND_SLOTS) this.#dataOut -= 1;
    return command;
  }

  #read(position: number): Command {
    const view = this.#view;
    const at = REGION + region.COMMAND_RING + (position % RING_ENTRIES) * abi.COMMAND_SIZE;
    return {
      id: view.getUint32(at + abi.COMMAND_ID, true),
      op: view.getUint8(at + abi.COMMAND_OP),
      flags: view.getUint8(at + abi.COMMAND_FLAGS),
      file: view.getUint8(at + abi.COMMAND_FILE),
      segments: view.getUint32(at + abi.COMMAND_SEGMENTS, true),
      data: view.getUint32(at + abi.COMMAND_DATA, true),
      offset: getU64(view, at + abi.COMMAND_OFFSET),
      length: getU64(view, at + abi.COMMAND_LENGTH),
    };
  }

  #checkKind({ id, op, file }: Command): void {
    const { files } = this.#setup.shape;
    const isSync = id >= COMMAND_SLOTS && id < COMMAND_SLOTS + FILES;
    const noFlush = (this.#setup.flags & region.CONFIG_NO_FLUSH) !== 0;
    if (isSync !== (op === abi.COMMAND_SYNC)) throw new Violation(`C1: the sync ${id}`);
    if (isSync && (noFlush || file !== id - COMMAND_SLOTS)) throw new Violation('W1: a sync');
    if (op === abi.COMMAND_EXTEND && id < METADATA_IDS) throw new Violation('C1: an EXTEND');
    const readOnly = (this.#setup.mapFlags & map.MAP_READ_ONLY) !== 0;
    if (readOnly && (changes(op) || op === abi.COMMAND_EXTEND)) throw new Violation('a write');
    const isThere =
      file === map.FILE_IMAGE ||
      (file === map.FILE_DATA && files.includes('data')) ||
      (file === map.FILE_BACKING && files.includes('backing') && !changes(op)) ||
      (file === map.FILE_COMPRESSED && op === abi.COMMAND_READ) ||
      (file === map.FILE_CIPHERED && files.includes('ciphered'));
    if (!isThere) throw new Violation(`command ${op} of file ${file}`);
  }

  /** (b). */
  #checkRivals(command: Command): void {
    if (!this.#isSound) return;
    const file = HostFiles.fileOf(command.file);
    for (const other of this.out) {
      if (other.op > abi.COMMAND_BLOCK_STATUS || HostFiles.fileOf(other.file) !== file) continue;
      if (!changes(command.op) && !changes(other.op)) continue;
      const isApart =
        command.offset >= other.offset + other.length ||
        other.offset >= command.offset + command.length;
      if (isApart) continue;
      const words = [other, command].map(
        ({ op, id, offset, length }) => `command ${op} (id ${id}) at ${offset}+${length}`,
      );
      throw new Violation(`rivals: ${words.join(' and ')} of file ${file}`);
    }
  }

  #checkMemory({ id, op, segments, data, length, file }: Command): void {
    if (op === abi.COMMAND_SYNC || op > abi.COMMAND_BLOCK_STATUS) return;
    if (op === abi.COMMAND_WRITE_ZEROES || op === abi.COMMAND_DISCARD) return;
    const size = file === map.FILE_COMPRESSED ? 2 ** this.#setup.shape.clusterBits : length;
    if (op === abi.COMMAND_BLOCK_STATUS) return this.#checkPart(id, op, data, 4096);
    if (segments === 1) return this.#checkPart(id, op, data, size);
    let bytes = 0;
    for (let entry = data; entry < data + segments * SEGMENT_SIZE; entry += SEGMENT_SIZE) {
      const part = this.#view.getUint32(entry + SEGMENT_LENGTH, true);
      this.#checkPart(id, op, this.#view.getUint32(entry + SEGMENT_ADDRESS, true), part);
      bytes += part;
    }
    if (bytes !== size) throw new Violation(`X1: ${bytes} of ${size} bytes have memory`);
  }

  #checkPart(id: number, op: number, address: number, length: number): void {
    const end = address + length;
    const inMap = address >= MAP && end <= this.#mapEnd;
    const inArena = address >= ARENA && end <= ARENA_END;
    const isGuests = id < COMMAND_SLOTS && (inArena || (op === abi.COMMAND_WRITE && inMap));
    if (isGuests || (id >= METADATA_IDS && inMap)) return;
    throw new Violation(`memory: command ${op} (id ${id}) uses ${address}+${length}`);
  }
}

/** True for what changes a file. */
export function changes(op: number): boolean {
  return op === abi.COMMAND_WRITE || op === abi.COMMAND_WRITE_ZEROES || op === abi.COMMAND_DISCARD;
}

function getU64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * HIGH_WORD;
}
