/**
 * A host that does what a program says to an engine with a qcow2 mapping: it damages the image or
 * not, submits, pumps, answers in any order, and looks at all that comes out (commands.ts,
 * requests.ts). At the end everything is answered, the mapping is closed, and
 *
 *   - of a sound image the checker finds no corruption; and when the host has reported no error,
 *     nothing at all, and a plain reader finds what the guest has written;
 *   - nothing in the memory has changed but the engine, the mapping and what was read.
 */

import {
  COMMAND_BLOCK_STATUS,
  COMMAND_DISCARD,
  ERRNO_ENOTSUP,
  RESULT_ERRNO,
  RESULT_ID,
  RESULT_SIZE,
  RESULT_VALUE,
} from '../../../src/abi/command.ts';
import { COMMAND_SLOTS, METADATA_IDS, RING_ENTRIES } from '../../../src/abi/limits.ts';
import * as map from '../../../src/abi/map.ts';
import * as region from '../../../src/abi/region.ts';
import * as abi from '../../../src/abi/request.ts';
import { checkBytes } from '../../../src/image/qcow2/check.ts';
import { parseHeader } from '../../../src/image/qcow2/header.ts';
import { readGuest } from '../../model/qcow2.ts';
import type { EngineExports } from '../../support/engine.ts';
import { Digest } from '../commands.ts';
import { actionAt, actionCount } from '../input.ts';
import { Violation } from '../ledger.ts';
import { Commands } from './commands.ts';
import { HostFiles } from './files.ts';
import { Guard } from './guard.ts';
import { type BuiltImage, imageOf } from './image.ts';
import * as input from './input.ts';
import * as layout from './layout.ts';
import { poke } from './poke.ts';
import { Requests } from './requests.ts';
import { startMapping } from './start.ts';

const { REGION, MAP } = layout;
/** A program that is longer has been long enough. */
const PUMPS_MAX = 400;
/** Rounds until everything has come back. */
const ROUNDS_MAX = 8192;
/** Rounds in which nothing comes back: what waits, waits for nothing. */
const IDLE_MAX = 16;
const SECOND_US = 1e6;

/** One engine and its mapping in one memory, for many runs. */
export class Qcow2Host {
  /** Calls of `pump` so far, in all runs. */
  pumps = 0;
  readonly #digest = new Digest();
  readonly #exports: EngineExports;
  readonly #view: DataView;
  readonly #bytes: Buffer;
  readonly #files: HostFiles;
  readonly #commands: Commands;
  readonly #requests: Requests;
  readonly #guard: Guard;
  #setup!: input.Setup;
  #built!: BuiltImage;
  #now = 0;
  #mapBytes = 0;
  /** Bytes behind the largest mapping so far are as they were. */
  #mapUsed = 0;
  /** The host has reported an error that counts. */
  /** What commands have ended with that were executed as soon as they came. */
  readonly #early = new Map<number, number>();
  #hasFailed = false;
  #isClosing = false;

  /** @param memory from layout.createQcow2Memory */
  constructor(exports: EngineExports, memory: WebAssembly.Memory) {
    this.#exports = exports;
    this.#view = new DataView(memory.buffer);
    this.#bytes = Buffer.from(memory.buffer);
    this.#files = new HostFiles(memory);
    this.#guard = new Guard(memory, this.#files);
    this.#commands = new Commands(this.#view, this.#files, this.#guard, this.#digest);
    this.#requests = new Requests(memory);
  }

  /** Requests of the last run. */
  get submitted(): number {
    return this.#requests.submitted;
  }

  /** A number that depends on all commands and completions of the last run. */
  get digest(): number {
    return this.#digest.value;
  }

  /** Runs a program to its end. Throws a Violation, or what the engine throws when it traps. */
  run(bytes: Uint8Array): void {
    this.#requests.submitted = 0;
    try {
      if (!this.#start(bytes)) return;
      const enough = this.pumps + PUMPS_MAX;
      const actions = actionCount(bytes);
      for (let index = 0; index < actions && this.pumps < enough; index++) {
        this.#perform(actionAt(bytes, index));
      }
      this.#end();
      this.#requests.checkArena();
    } catch (error) {
      // The next run starts from what is right.
      this.#bytes.fill(layout.FILLER, layout.ARENA, layout.ARENA_END);
      throw error;
    }
    this.#checkOutside();
  }

  #start(bytes: Uint8Array): boolean {
    const setup = input.setupOf(bytes);
    this.#setup = setup;
    this.#digest.reset();
    this.#now = 0;
    this.#hasFailed = false;
    this.#isClosing = false;
    const built = imageOf(setup.shape);
    this.#built = built;
    this.#files.reset(built, setup);
    const isDamaged = this.#damage(bytes);
    this.#bytes.fill(layout.FILLER, MAP, MAP + this.#mapUsed);
    this.#mapUsed = 0;
    this.#bytes.fill(0, REGION, REGION + region.REGION_SIZE);
    const requests = this.#requests;
    requests.reset(setup, built.disk.length);
    requests.shadow.reset(built);
    requests.isDamaged = isDamaged;
    requests.mayFail = isDamaged;
    this.#mapBytes = startMapping(this.#exports, this.#view, this.#files, built, setup);
    this.#mapUsed = this.#mapBytes;
    if (this.#mapBytes === 0) return false;
    for (let at = region.REQUEST_HEAD; at <= region.COMPLETION_TAIL; at += 4) {
      this.#store(at, setup.position);
    }
    this.#commands.reset(setup, this.#mapBytes, !isDamaged);
    this.#guard.reset(built, setup);
    return true;
  }

  /** All the changes come before the first request. True when there is one. */
  #damage(bytes: Uint8Array): boolean {
    let any = this.#setup.shortL1;
    for (let index = 0; index < actionCount(bytes); index++) {
      const action = actionAt(bytes, index);
      if (input.kindOf(action) !== 'poke') continue;
      any = true;
      poke(this.#files.view, this.#files.sizeBytes, this.#built, this.#setup.shape, action);
    }
    return any;
  }

  #perform(action: Uint8Array): void {
    const kind = input.kindOf(action);
    switch (kind) {
      case 'io':
        this.#submit(input.ioOf(action, this.#setup.shape, this.#built.disk.length));
        return;
      case 'burst':
        this.#burst(action);
        return;
      case 'flush':
      case 'control':
        this.#submit(input.controlOf(action, kind));
        return;
      case 'poke':
        return;
      case 'turn':
        this.#turn(action);
        return;
      case 'pump':
        this.#now += input.delayOf(action);
        this.#pump();
        return;
      case 'answer':
        this.#answerSome(action);
        return;
      case 'wait':
        this.#wait();
        return;
      case 'drain':
        this.#drain();
    }
  }

  #burst(action: Uint8Array): void {
    const stride = input.strideOf(action);
    const { shape } = this.#setup;
    for (let index = 0; index < input.burstCount(action); index++) {
      this.#submit(input.ioOf(action, shape, this.#built.disk.length, index * stride));
    }
  }

  /** The host wants the tables written, or closes: when all is answered, and nothing follows. */
  #turn(action: Uint8Array): void {
    const how = input.parameter(action, 1) & 3;
    if (how === 1) this.#drain();
    this.#isClosing ||= how === 1;
    this.#view.setUint32(MAP + (how === 1 ? map.MAP_CLOSING : map.MAP_WRITE_NOW), 1, true);
    if (how !== 2) this.#pump();
  }

  #submit(io: input.Io): void {
    if (this.#isClosing && io.op !== abi.OP_FLUSH) return;
    const tail = this.#load(region.REQUEST_TAIL);
    if (distance(this.#load(region.REQUEST_HEAD), tail) >= RING_ENTRIES) return;
    const record = this.#requests.submit(io);
    if (record === undefined) return;
    const view = this.#view;
    const at = REGION + region.REQUEST_RING + (tail % RING_ENTRIES) * abi.REQUEST_SIZE;
    view.setUint32(at + abi.REQUEST_TAG, record.tag, true);
    view.setUint8(at + abi.REQUEST_OP, io.op);
    view.setUint8(at + abi.REQUEST_FLAGS, io.flags);
    view.setUint16(at + abi.REQUEST_QUEUE, io.queue, true);
    view.setUint32(at + abi.REQUEST_SEGMENTS, record.segments, true);
    view.setUint32(at + abi.REQUEST_DATA, record.data, true);
    view.setBigUint64(at + abi.REQUEST_OFFSET, BigInt(io.offset), true);
    view.setBigUint64(at + abi.REQUEST_LENGTH, BigInt(io.length), true);
    this.#store(region.REQUEST_TAIL, (tail + 1) >>> 0);
  }

  #pump(): void {
    this.pumps += 1;
    const wasCorrupt = this.#mapWord(map.MAP_CORRUPT) !== 0;
    const waiting = this.#exports.pump(REGION, this.#now) >>> 0;
    const head = this.#load(region.COMMAND_HEAD);
    const tail = this.#load(region.COMMAND_TAIL);
    if (waiting !== distance(head, tail)) throw new Violation(`pump says ${waiting}`);
    if (waiting > RING_ENTRIES) throw new Violation('the command ring overflows');
    if (this.#load(region.RESULT_HEAD) !== this.#load(region.RESULT_TAIL)) {
      throw new Violation('P1: results are left');
    }
    if (this.#mapWord(map.MAP_CORRUPT) !== 0) this.#requests.mayFail = true;
    this.#takeCompletions();
    for (let at = head; at !== tail; at = (at + 1) >>> 0) {
      const command = this.#commands.take(at, wasCorrupt);
      if (this.#setup.eager) this.#early.set(command.id, this.#files.execute(command, 1));
    }
    this.#store(region.COMMAND_HEAD, tail);
    if (this.#mapWord(map.MAP_CORRUPT) !== 0 && !this.#requests.isDamaged) {
      throw new Violation(`a sound image is said to be corrupt: ${this.#mapWord(map.MAP_CORRUPT)}`);
    }
  }

  #takeCompletions(): void {
    const view = this.#view;
    const tail = this.#load(region.COMPLETION_TAIL);
    for (let at = this.#load(region.COMPLETION_HEAD); at !== tail; at = (at + 1) >>> 0) {
      const record = REGION + region.COMPLETION_RING + (at % RING_ENTRIES) * abi.COMPLETION_SIZE;
      const tag = view.getUint32(record + abi.COMPLETION_TAG, true);
      const status = view.getUint32(record + abi.COMPLETION_STATUS, true);
      const value = view.getUint32(record + abi.COMPLETION_VALUE, true);
      this.#digest.add(tag);
      this.#digest.add(status);
      this.#digest.add(value);
      this.#requests.complete(tag, status, value);
    }
    this.#store(region.COMPLETION_HEAD, tail);
  }

  #answerSome(action: Uint8Array): void {
    const answer = input.answerOf(action);
    const { out } = this.#commands;
    for (let left = Math.min(answer.count, out.length); left > 0; left--) {
      const from = answer.pick % out.length;
      const at = answer.backwards ? out.length - 1 - from : from;
      const id = out[at]?.id ?? 0;
      const dataErrno = id < COMMAND_SLOTS ? answer.errno : answer.syncErrno;
      this.#answer(at, id < METADATA_IDS ? dataErrno : answer.metadataErrno, answer.extents);
    }
    if (answer.pump) this.#pump();
  }

  /** Answers the command at a place of those at the host. */
  #answer(at: number, wanted: number, extents = 1): void {
    const command = this.#commands.close(at);
    const { eager, torn } = this.#setup;
    let errno = wanted;
    if (errno !== 0 && !eager) this.#files.fail(command, torn);
    if (errno === 0) {
      errno = eager ? this.#early.get(command.id)! : this.#files.execute(command, extents);
    }
    const isHole = command.op === COMMAND_DISCARD && command.id >= METADATA_IDS;
    if (errno !== 0 && !(isHole && errno === ERRNO_ENOTSUP)) {
      this.#hasFailed = true;
      this.#requests.mayFail = true;
    }
    const tail = this.#load(region.RESULT_TAIL);
    const record = REGION + region.RESULT_RING + (tail % RING_ENTRIES) * RESULT_SIZE;
    const value = command.op === COMMAND_BLOCK_STATUS ? this.#files.extents : 0;
    this.#view.setUint32(record + RESULT_ID, command.id, true);
    this.#view.setUint32(record + RESULT_ERRNO, errno, true);
    this.#view.setUint32(record + RESULT_VALUE, value, true);
    this.#store(region.RESULT_TAIL, (tail + 1) >>> 0);
  }

  /** Lets the time pass that the engine asks for. */
  #wait(): void {
    const wait = this.#load(region.STATE_WAIT);
    this.#now += wait === region.STATE_WAIT_NEVER ? 0 : wait;
    this.#pump();
  }

  /** Answers everything with success until nothing is at the host and nothing is open. */
  #drain(): void {
    const { out } = this.#commands;
    const { open } = this.#requests;
    let idle = 0;
    for (let rounds = 0; rounds < ROUNDS_MAX && idle < IDLE_MAX; rounds++) {
      idle = out.length === 0 ? idle + 1 : 0;
      while (out.length > 0) this.#answer(0, 0);
      this.#pump();
      if (out.length === 0 && open.size === 0) return;
      if (out.length === 0) this.#now += SECOND_US;
    }
    const [first] = open.values();
    throw new Violation(
      `(i): ${out.length} commands, request ${first?.tag} (${first?.io.op}) stay`,
    );
  }

  #end(): void {
    this.#pump();
    this.#drain();
    for (let rounds = 0; rounds < IDLE_MAX; rounds++) {
      this.#store(MAP - REGION + map.MAP_CLOSING, 1);
      this.#pump();
      if (this.#commands.out.length === 0 && this.#mapWord(map.MAP_DIRTY) === 0) break;
      this.#drain();
    }
    const isClean = !this.#hasFailed && !this.#requests.isDamaged;
    if (isClean && this.#mapWord(map.MAP_DIRTY) !== 0) throw new Violation('close: it stays dirty');
    if (!this.#requests.isDamaged) this.#checkImage(isClean);
  }

  #checkImage(isClean: boolean): void {
    const { sizeBytes, image } = this.#files;
    const bytes = image.subarray(0, sizeBytes);
    const { corruptions, checkErrors, findings } = checkBytes(bytes, parseHeader(bytes, 'image'));
    if (corruptions + checkErrors > 0 || (isClean && findings.length > 0)) {
      throw new Violation(
        `check: ${findings.find((text) => !text.includes('fewer')) ?? findings[0]}`,
      );
    }
    if (!isClean || this.#setup.shape.files.includes('ciphered')) return;
    const { disk, backing } = this.#built;
    const found = readGuest(bytes, backing, 0, disk.length, this.#files.data);
    this.#requests.shadow.read(0, found);
  }

  #checkOutside(): void {
    this.#checkFilled(0, layout.COUNTERS);
    this.#checkFilled(MAP + this.#mapBytes, layout.ARENA);
  }

  #checkFilled(start: number, end: number): void {
    const bytes = this.#bytes.subarray(start, end);
    if (bytes.equals(FILLED.subarray(0, end - start))) return;
    const at = bytes.findIndex((byte) => byte !== layout.FILLER);
    const found = bytes[at];
    bytes.fill(layout.FILLER);
    throw new Violation(`(j): byte ${start + at} is ${found}`);
  }

  #mapWord(at: number): number {
    return this.#view.getUint32(MAP + at, true);
  }

  #load(offset: number): number {
    return this.#view.getUint32(REGION + offset, true);
  }

  #store(offset: number, value: number): void {
    this.#view.setUint32(REGION + offset, value, true);
  }
}

const FILLED = Buffer.alloc(layout.MAP_ROOM, layout.FILLER);

/** From `head` to `tail`, both free-running 32-bit counters. */
function distance(head: number, tail: number): number {
  return (tail - head) >>> 0;
}
