/**
 * The host's side of a fuzzed device: the commands that are out, what they name, and their answers.
 *
 *   (g) a command is known by one id, lies on the disk, and moves bytes between it and buffers that
 *       chains in flight or the host's own requests name, in the direction that they name;
 *   (h) a request of the host completes once.
 */

import * as command from '../../../src/abi/command.ts';
import { COMMAND_SLOTS, RING_ENTRIES } from '../../../src/abi/limits.ts';
import * as region from '../../../src/abi/region.ts';
import * as request from '../../../src/abi/request.ts';
import type { Digest } from '../commands.ts';
import { Violation } from '../ledger.ts';
import type { HostRequest, Setup } from './input.ts';
import { HOST_BUFFERS, RAM, REGION } from './layout.ts';
import type { Ram } from './ram.ts';
import { SECTOR } from './request.ts';
import type { Watch } from './watch.ts';

interface Segment {
  readonly place: number;
  readonly length: number;
}

/** A command at the host. */
export interface Out {
  readonly id: number;
  readonly op: number;
  readonly offset: number;
  readonly segments: readonly Segment[];
}

/** Requests of the host that may be open: half of what the rings hold is the guest's. */
const HOST_OPEN_MAX = 256;

/** See the head of the file. */
export class Disk {
  /** Commands that are not answered, first come first. */
  readonly out: Out[] = [];
  /** Requests of the host that have not completed. */
  readonly open = new Set<number>();
  readonly #view: DataView;
  readonly #ram: Ram;
  readonly #setup: Setup;
  readonly #watch: Watch;
  readonly #digest: Digest;
  #tag = 0;

  constructor(view: DataView, ram: Ram, setup: Setup, watch: Watch, digest: Digest) {
    this.#view = view;
    this.#ram = ram;
    this.#setup = setup;
    this.#watch = watch;
    this.#digest = digest;
  }

  /** Puts a request of the host into the ring, if there is room for it. */
  submit({ op, flags, queue, sector, sectors }: HostRequest): void {
    if (this.open.size >= HOST_OPEN_MAX) return;
    const view = this.#view;
    const tail = this.#load(region.REQUEST_TAIL);
    const at = REGION + region.REQUEST_RING + (tail % RING_ENTRIES) * request.REQUEST_SIZE;
    const hasRange = op < request.OP_FLUSH;
    if (op >= request.OP_RESET_QUEUE) this.#watch.certainty.clean = false;
    view.setUint32(at + request.REQUEST_TAG, this.#tag, true);
    view.setUint8(at + request.REQUEST_OP, op);
    view.setUint8(at + request.REQUEST_FLAGS, flags);
    view.setUint16(at + request.REQUEST_QUEUE, queue, true);
    view.setUint32(at + request.REQUEST_SEGMENTS, hasRange ? 1 : 0, true);
    view.setUint32(at + request.REQUEST_DATA, hasRange ? HOST_BUFFERS : 0, true);
    view.setBigUint64(at + request.REQUEST_OFFSET, BigInt(hasRange ? sector * SECTOR : 0), true);
    const length = hasRange ? sectors * SECTOR : sectors & 1;
    view.setBigUint64(at + request.REQUEST_LENGTH, BigInt(length), true);
    this.open.add(this.#tag);
    this.#tag += 1;
    this.#store(region.REQUEST_TAIL, (tail + 1) >>> 0);
  }

  /** Takes what a pump has put into the command and completion rings. */
  take(): void {
    this.#takeCommands();
    this.#takeCompletions();
  }

  #takeCommands(): void {
    const tail = this.#load(region.COMMAND_TAIL);
    let head = this.#load(region.COMMAND_HEAD);
    for (; head !== tail; head = (head + 1) >>> 0) this.#takeCommand(head);
    this.#store(region.COMMAND_HEAD, head);
  }

  #takeCommand(position: number): void {
    const view = this.#view;
    const at = REGION + region.COMMAND_RING + (position % RING_ENTRIES) * command.COMMAND_SIZE;
    const id = view.getUint32(at + command.COMMAND_ID, true);
    const op = view.getUint8(at + command.COMMAND_OP);
    const offset = Number(view.getBigUint64(at + command.COMMAND_OFFSET, true));
    const length = Number(view.getBigUint64(at + command.COMMAND_LENGTH, true));
    for (const word of [id, op, offset, length]) this.#digest.add(word);
    if (this.out.some((other) => other.id === id)) throw new Violation(`(g): the id ${id} is out`);
    const isSync = op === command.COMMAND_SYNC;
    if (isSync !== id >= COMMAND_SLOTS) throw new Violation(`(g): a command ${op} with id ${id}`);
    const isPast = offset + length > this.#setup.sectors * SECTOR;
    if (!isSync && (length === 0 || isPast)) throw new Violation(`(g): ${offset}+${length}`);
    const segments = op <= command.COMMAND_WRITE ? this.#segmentsAt(at, length) : [];
    const entry = { id, op, offset, segments };
    this.#checkNamed(entry);
    this.out.push(entry);
  }

  #segmentsAt(at: number, length: number): Segment[] {
    const view = this.#view;
    const count = view.getUint32(at + command.COMMAND_SEGMENTS, true);
    const data = view.getUint32(at + command.COMMAND_DATA, true);
    if (count === 1) return [{ place: data, length }];
    let bytes = 0;
    const segments = Array.from({ length: count }, (_, index) => {
      const entry = data + index * request.SEGMENT_SIZE;
      const size = view.getUint32(entry + request.SEGMENT_LENGTH, true);
      bytes += size;
      return { place: view.getUint32(entry + request.SEGMENT_ADDRESS, true), length: size };
    });
    if (bytes !== length) throw new Violation(`(g): ${bytes} of ${length} bytes have memory`);
    return segments;
  }

  /** (g). */
  #checkNamed({ op, segments }: Out): void {
    for (const { place, length } of segments) {
      if (place >= HOST_BUFFERS && place + length <= RAM) continue;
      if (this.#watch.isNamed(place, length, op === command.COMMAND_READ)) continue;
      throw new Violation(`(g): a command ${op} moves ${length} bytes at ${place} of nobody`);
    }
  }

  #takeCompletions(): void {
    const tail = this.#load(region.COMPLETION_TAIL);
    let head = this.#load(region.COMPLETION_HEAD);
    for (; head !== tail; head = (head + 1) >>> 0) {
      const place = (head % RING_ENTRIES) * request.COMPLETION_SIZE;
      const at = REGION + region.COMPLETION_RING + place;
      const tag = this.#view.getUint32(at + request.COMPLETION_TAG, true);
      this.#digest.add(tag);
      this.#digest.add(this.#view.getUint32(at + request.COMPLETION_STATUS, true));
      if (!this.open.delete(tag)) throw new Violation(`(h): request ${tag} completes, and is none`);
    }
    this.#store(region.COMPLETION_HEAD, head);
  }

  /** Answers the command at place `index` of those that are out; data lands when it succeeds. */
  answer(index: number, errno: number): void {
    const [done] = this.out.splice(index, 1);
    if (done === undefined) return;
    if (errno !== 0) this.#watch.certainty.clean = false;
    if (errno === 0 && done.op === command.COMMAND_READ) this.#land(done);
    const view = this.#view;
    const tail = this.#load(region.RESULT_TAIL);
    const at = REGION + region.RESULT_RING + (tail % RING_ENTRIES) * command.RESULT_SIZE;
    view.setUint32(at + command.RESULT_ID, done.id, true);
    view.setUint32(at + command.RESULT_ERRNO, errno, true);
    view.setUint32(at + command.RESULT_VALUE, 0, true);
    this.#store(region.RESULT_TAIL, (tail + 1) >>> 0);
  }

  #land(done: Out): void {
    this.#checkNamed(done);
    for (const { place, length } of done.segments) {
      if (place < RAM) continue;
      for (let byte = 0; byte < length; byte++) this.#ram.storeAt(place + byte, done.offset >> 9);
    }
  }

  #load(offset: number): number {
    return this.#view.getUint32(REGION + offset, true);
  }

  #store(offset: number, value: number): void {
    this.#view.setUint32(REGION + offset, value, true);
  }
}
