/**
 * A host with a guest that do what a program says: the guest makes chains, sound ones and others,
 * and changes its memory as it likes; the host pumps, answers, pauses, resets, maps. After each
 * call the rules of watch.ts and disk.ts hold; at the end everything comes back, every queue goes
 * off where it should, and nothing outside of the engine, the device and RAM has changed.
 */

import { RING_ENTRIES } from '../../../src/abi/limits.ts';
import * as region from '../../../src/abi/region.ts';
import * as abi from '../../../src/abi/virtio-device.ts';
import type { EngineExports } from '../../support/engine.ts';
import { Digest } from '../commands.ts';
import { actionAt, actionCount } from '../input.ts';
import { Violation } from '../ledger.ts';
import { Device } from './device.ts';
import { Disk } from './disk.ts';
import { Guest } from './guest.ts';
import * as input from './input.ts';
import * as layout from './layout.ts';
import { Ram, type Region, regionsOf } from './ram.ts';
import { Watch } from './watch.ts';

const { REGION, DEVICE } = layout;
/** So many chains of a copied guest are copied in: all. */
const ALL_CHAINS = 0xffff;

/** A program that is longer has been long enough. */
const PUMPS_MAX = 400;
/** Rounds until everything has come back: each of them ends something. */
const ROUNDS_MAX = 4096;
const SECOND_US = 1e6;

/** One engine and its device in one memory, for many runs. */
export class GuestHost {
  /** Calls of `pump` so far, in all runs. */
  pumps = 0;
  /** Chains of the last run. */
  submitted = 0;
  readonly #digest = new Digest();
  readonly #exports: EngineExports;
  readonly #view: DataView;
  readonly #bytes: Buffer;
  readonly #outside: Buffer;
  readonly #ram: Ram;
  #device!: Device;
  #guest!: Guest;
  #disk!: Disk;
  #watch!: Watch;
  #setup!: input.Setup;
  #now = 0;

  /** @param memory from layout.createGuestMemory */
  constructor(exports: EngineExports, memory: WebAssembly.Memory) {
    this.#exports = exports;
    this.#view = new DataView(memory.buffer);
    this.#bytes = Buffer.from(memory.buffer);
    this.#outside = Buffer.from(layout.createGuestMemory().buffer, 0, layout.RAM);
    this.#ram = new Ram(memory);
  }

  /** A number that depends on all commands, completions and used entries of the last run. */
  get digest(): number {
    return this.#digest.value;
  }

  /** Runs a program to its end. Throws a Violation, or what the engine throws when it traps. */
  run(bytes: Uint8Array): void {
    this.submitted = 0;
    if (!this.#init(input.setupOf(bytes))) return;
    const enough = this.pumps + PUMPS_MAX;
    const actions = actionCount(bytes);
    for (let index = 0; index < actions && this.pumps < enough; index++) {
      this.#perform(actionAt(bytes, index));
    }
    this.submitted = this.#guest.chains;
    this.#end();
    this.#checkOutside();
  }

  #init(setup: input.Setup): boolean {
    this.#digest.reset();
    this.#setup = setup;
    this.#now = 0;
    this.#configure(setup);
    this.#bytes.fill(0, REGION + region.REQUEST_RING, REGION + region.COMMAND_RING);
    if (this.#exports.init(REGION) !== 1) throw new Violation('init refuses');
    const taken = this.#exports.initDevice(REGION, setup.queues) === 1;
    if (taken !== (setup.queues >= 1 && setup.queues <= abi.VIRTQUEUES)) {
      throw new Violation(`initDevice says ${taken} to ${setup.queues} queues`);
    }
    if (!taken) return false;
    const ram = this.#ram;
    layout.clearBehind(this.#bytes, this.#exports.deviceSize(setup.queues) >>> 0);
    ram.reset(setup.cut, setup.base);
    this.#watch = new Watch(this.#view, ram, setup);
    this.#disk = new Disk(this.#view, ram, setup, this.#watch, this.#digest);
    this.#device = new Device(this.#exports, this.#view, ram, setup, this.#watch);
    this.#guest = new Guest(ram, setup, this.#watch);
    for (const part of regionsOf(setup.cut)) this.#map(part);
    for (const { index } of this.#watch.queues) this.#device.attachFresh(index);
    return true;
  }

  #configure(setup: input.Setup): void {
    const view = this.#view;
    view.setBigUint64(REGION + region.CONFIG_CAPACITY, BigInt(setup.sectors * 512), true);
    const words: readonly (readonly [number, number])[] = [
      [region.CONFIG_BLOCK_SIZE, 512],
      [region.CONFIG_FLAGS, setup.engineFlags],
      [region.CONFIG_DEPTH, setup.depth],
      [region.CONFIG_MERGE_BYTES, setup.mergeBytes],
      [region.CONFIG_FILES, setup.files],
      [region.CONFIG_CHUNK_BYTES, 4096],
      [region.CONFIG_READ_EXPIRY, 100],
      [region.CONFIG_WRITE_EXPIRY, 1000],
      [region.CONFIG_BATCH, 4],
      [region.CONFIG_WRITES_STARVED, 2],
      [region.CONFIG_FLUSH_WAIT, 0],
    ];
    for (const [at, value] of words) view.setUint32(REGION + at, value, true);
  }

  #map(part: Region): void {
    const code = this.#device.map(part);
    if (code !== 0) throw new Violation(`mapGuest says ${code}`);
    this.#ram.map(part);
  }

  #perform(action: Uint8Array): void {
    const ring = input.ringOf(action, this.#setup);
    switch (input.kindOf(action)) {
      case 'chain':
        this.#guest.makeChains(action, ring, 1);
        return;
      case 'burst':
        this.#guest.makeChains(action, ring, input.burstOf(input.parameter(action, 7)));
        return;
      case 'pump':
        this.#now += input.delayOf(input.parameter(action, 1));
        this.#notify(input.parameter(action, 2), ring);
        this.#pump(input.parameter(action, 3) < 0x80, input.parameter(action, 4) < 0xe0);
        return;
      case 'answer':
        this.#answerSome(action);
        return;
      case 'host':
        this.#disk.submit(input.hostRequestOf(action, this.#setup));
        return;
      case 'poke':
        this.#guest.poke(action, ring);
        return;
      case 'queue':
        this.#device.turn(action, ring, this.#disk);
        return;
      case 'attach':
        this.#device.attach(action, ring);
        return;
      case 'map':
        this.#device.remap(action);
        return;
      case 'device':
        this.#device.change(action);
        return;
      case 'peek':
        this.#device.peek();
        return;
      case 'land':
        this.#device.land(1 + input.parameter(action, 1));
        return;
      case 'event':
        this.#guest.setEvent(action, ring);
        return;
      case 'drain':
        this.#notify(0, ring);
        this.#drain();
    }
  }

  /** 0: of every queue; 1: of none; else of one. */
  #notify(how: number, ring: number): void {
    if (how === 1) return;
    const bits = how === 0 ? (1n << BigInt(this.#watch.queues.length)) - 1n : 1n << BigInt(ring);
    const at = DEVICE + abi.DEVICE_KICKED;
    this.#view.setBigUint64(at, this.#view.getBigUint64(at, true) | bits, true);
  }

  /** @param copies false: of a copied guest one chain of each queue may be taken */
  #pump(lands: boolean, copies = true): void {
    const watch = this.#watch;
    this.pumps += 1;
    const isCopied = (this.#setup.deviceFlags & abi.DEVICE_COPIED) !== 0;
    if (isCopied) this.#device.peek(copies ? ALL_CHAINS : 1);
    watch.look();
    const mustTake = isCopied && !copies ? [] : this.#device.whatMustBeTaken();
    const commands = this.#exports.pump(REGION, this.#now) >>> 0;
    if (commands > RING_ENTRIES) throw new Violation('the command ring overflows');
    watch.observe();
    this.#device.checkTaken(mustTake);
    this.#disk.take();
    this.#noteRings();
    if (lands) this.#device.land(abi.CHAINS);
  }

  /** Interrupts are taken, and everything that a driver sees counts. */
  #noteRings(): void {
    const at = DEVICE + abi.DEVICE_INTERRUPTS;
    this.#digest.add(this.#view.getUint32(at, true));
    this.#view.setBigUint64(at, 0n, true);
    for (const queue of this.#watch.queues) {
      this.#digest.add(this.#watch.queueWord(queue.index, abi.QUEUE_STATE));
      this.#digest.add(this.#watch.queueWord(queue.index, abi.QUEUE_ERROR));
      this.#digest.add(queue.used);
    }
  }

  #answerSome(action: Uint8Array): void {
    const { out } = this.#disk;
    const how = input.parameter(action, 4);
    const count = input.parameter(action, 3);
    const errno = input.errnoOf(input.parameter(action, 2));
    for (let left = count >= 0xc0 ? 512 : 1 + (count & 15); left > 0 && out.length > 0; left--) {
      const from = input.parameter(action, 1) % out.length;
      this.#disk.answer((how & 1) === 0 ? from : out.length - 1 - from, errno);
    }
    if ((how & 2) === 0) this.#pump(true);
  }

  /** Does everything that waits for the host, until nothing does. */
  #drain(): void {
    const { out, open } = this.#disk;
    const device = this.#device;
    for (let rounds = 0; rounds < ROUNDS_MAX; rounds++) {
      while (out.length > 0) this.#disk.answer(0, 0);
      device.resume();
      this.#now += SECOND_US;
      this.#pump(true);
      if (out.length === 0 && open.size === 0 && device.isIdle()) return;
    }
    const { length } = out;
    const chains = this.#watch.word(abi.DEVICE_IN_FLIGHT);
    throw new Violation(`(i): ${length} commands, ${open.size} requests, ${chains} chains stay`);
  }

  #end(): void {
    this.#drain();
    this.#device.end();
  }

  #checkOutside(): void {
    const end = DEVICE + (this.#exports.deviceSize(this.#setup.queues) >>> 0);
    this.#checkSame(0, layout.COUNTERS);
    this.#checkSame(end, layout.RAM);
  }

  #checkSame(start: number, end: number): void {
    if (this.#bytes.compare(this.#outside, start, end, start, end) === 0) return;
    let at = start;
    while (this.#bytes[at] === this.#outside[at]) at += 1;
    const found = this.#bytes[at];
    this.#outside.copy(this.#bytes, start, start, end);
    throw new Violation(`(j): byte ${at} is ${found}, not ${this.#outside[at]}`);
  }
}
