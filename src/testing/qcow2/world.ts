/**
 * One stream of requests over one image: an engine, the disks below it, and those who judge.
 *
 *   submit, an answer of a disk, time that passes ──▶ the engine runs ──▶ the power is cut
 *
 * At one step the process may be killed: another engine opens what is there and goes on. At the end
 * the image may be closed. What happens next is drawn from a seed; the same seed tells the same
 * story.
 */
import { ERRNO_ENOTSUP } from '../../abi/command.ts';
import { FILE_BACKING, FILE_COMPRESSED, FILE_DATA } from '../../abi/map.ts';
import { METADATA_IDS } from '../../abi/limits.ts';
import {
  OP_CLEAR_LATCH,
  OP_RESET_QUEUE,
  OP_SET_WCE,
  OP_WRITE,
  STATUS_OK,
} from '../../abi/request.ts';
import type { CommandRecord, CompletionRecord } from '../../engine.ts';
import { parseHeader } from '../../image/qcow2/header.ts';
import { Random } from '../random.ts';
import { RuleBroken } from '../rule-broken.ts';
import { describeRequest, type GuestRequest, isWriteClass, SECTOR_BYTES } from '../stream.ts';
import { fillSectors } from './guest-sectors.ts';
import { type FileFaults, Hosts } from './hosts.ts';
import type { BuiltImage } from './image-builder.ts';
import { type Beginning, Life } from './life.ts';
import { randomFaults, randomLatency } from './plan.ts';
import type { OpenSubject, Qcow2Setup } from './subject.ts';

/** What is run. */
export interface Qcow2Case {
  readonly first: BuiltImage;
  readonly setup: Qcow2Setup;
  readonly stream: readonly GuestRequest[];
  /** What codes of sectors are above the numbers of writes. */
  readonly base: number;
  /** For what happens when, and for the disks. */
  readonly seed: number;
  /** What fails; default: drawn from the seed, mostly nothing. */
  readonly faults?: FileFaults;
  /** The step at which the process is killed. */
  readonly killAt?: number | undefined;
}

type Event = 'submit' | 'answer' | 'wait' | 'close';

/** Bytes of all the states of one moment that are looked at, and how many these may be. */
const BYTES_OF_MOMENT = 200_000;
const STATES_OF_MOMENT = 12;
const LEAST_STATES = 8;
/** Of a longer image only some moments are looked at. */
const LONG_BYTES = 1_000_000;
const LONG_SHARE = 0.25;
/** How often time passes while nothing else can happen. */
const WAITS = 60;
/** A stream has some hundreds. */
const MOST_EVENTS = 20_000;
const COMMANDS = ['read', 'write', 'zeroes', 'discard', 'status', 'sync', 'extend'];

/** See the head of the file. Broken rules are thrown as RuleBroken. */
export class Qcow2World {
  /** Power cuts so far. */
  states = 0;
  /** Calls of the engine, and what has happened before them. */
  steps = 0;
  events = 0;
  /** Commands that have failed: an operation, and what it was for where that is metadata. */
  readonly failed: string[] = [];
  /** The story; only when somebody wants it. */
  readonly lines: string[] | undefined;
  readonly #open: OpenSubject;
  readonly #case: Qcow2Case;
  readonly #random: Random;
  readonly #clusterBytes: number;
  readonly #statesOfMoment: number;
  /** The image will be closed. */
  #closes: boolean;
  readonly #isLazy: boolean;
  #life: Life;
  #hosts: Hosts;
  readonly #command: CommandRecord = { id: 0, op: 0, flags: 0, file: 0, ...NO_DATA };
  readonly #completion: CompletionRecord = { tag: 0, status: 0, value: 0, errno: 0 };
  /** What the commands at the disks are for. */
  readonly #purposes = new Map<number, string>();
  #now = 0;
  #next = 0;
  #isClosing = false;
  #hostFailed = false;
  #syncFailed = false;
  /** A sync has failed since the latch was cleared. */
  #isLatched = false;
  /** Something has happened that the engine has not been called for. */
  #unheard = false;
  /** Something has changed since the last look: a command, an answer, a promise. */
  #changed = true;

  constructor(open: OpenSubject, explored: Qcow2Case, told = false) {
    const { first, setup, stream, seed, base } = explored;
    this.#open = open;
    this.#case = explored;
    this.lines = told ? [] : undefined;
    this.#random = new Random(seed);
    this.#clusterBytes = parseHeader(first.image, 'the image').clusterBytes;
    const most = Math.ceil(BYTES_OF_MOMENT / first.image.length);
    this.#statesOfMoment = Math.max(LEAST_STATES, Math.min(STATES_OF_MOMENT, most));
    this.#closes = this.#random.chance(0.6);
    this.#isLazy = this.#random.chance(0.2);
    const faults = randomFaults(this.#random);
    const latency = randomLatency(this.#random);
    const given = explored.faults ?? faults;
    this.#hosts = Hosts.holding(first, setup.fua, this.#random, latency, given);
    this.#life = this.#begin({ first, setup, requests: stream, base });
  }

  /** Lets everything happen. */
  run(): void {
    this.#look();
    for (let waits = 0; waits < WAITS;) {
      if (this.events === this.#case.killAt) this.#kill();
      const event = this.#draw();
      if (event === undefined && !this.#unheard) break;
      if (event === 'wait') waits += 1;
      this.#happen(event);
      if (this.events > MOST_EVENTS) throw new RuleBroken('livelock', 'it goes on and on');
    }
    this.#life.oracle.checkIdle();
    if (this.#isClosing) this.#checkClosed();
  }

  /** An image that a power cut now may leave, and the codes of its sectors. */
  cut(): BuiltImage {
    const image = this.#hosts.image.cutPower().contents();
    const data = this.#hosts.data?.cutPower().contents();
    return this.#found({ image, data });
  }

  #draw(): Event | undefined {
    const busy = this.#hosts.isBusy;
    const next = this.#case.stream[this.#next];
    // Whoever clears the latch has waited for what is under way, has heard of it, and put it right.
    const isEarly = next?.op === OP_CLEAR_LATCH && (busy || this.#unheard);
    const may = next !== undefined && !isEarly;
    if (may && (!busy || this.#random.chance(0.3))) return 'submit';
    if (busy && !this.#random.chance(0.02)) return 'answer';
    if (Number.isFinite(this.#life.subject.waitMicros)) return 'wait';
    if (busy) return 'answer';
    return this.#closes && !this.#unheard ? 'close' : undefined;
  }

  #happen(event: Event | undefined): void {
    this.events += 1;
    this.#now += this.#random.below(20);
    this.#unheard = event === 'submit' || event === 'answer' || event === 'close';
    if (event === 'submit') this.#submit();
    else if (event === 'answer') this.#changed = this.#hosts.step(this.#random, this.#isLazy);
    else if (event === 'wait') this.#now += this.#life.subject.waitMicros;
    else if (event === 'close') this.#close();
    // Several events may come between two calls of the engine.
    if (!this.#unheard || this.#random.chance(0.8)) this.#pump();
    this.#look();
  }

  #submit(): void {
    const request = this.#case.stream[this.#next];
    if (request === undefined) return;
    this.#next += 1;
    const { op, flags, queue, from, to } = request;
    if (op === OP_CLEAR_LATCH) this.#repair();
    const life = this.#life;
    const number = life.oracle.submit(request);
    this.#note(`submit   ${number}: ${describeRequest(request)}`);
    if (this.#hostFailed) life.excuse();
    const length = op === OP_SET_WCE ? to : (to - from) * SECTOR_BYTES;
    const bytes = life.bytesOf(number, request);
    if (op === OP_WRITE) fillSectors(bytes, life.base + number, from);
    const offset = from * SECTOR_BYTES;
    const segments = op === OP_RESET_QUEUE || op === OP_CLEAR_LATCH ? 0 : 1;
    life.subject.submit(number, op, flags, offset, length, segments, bytes.byteOffset, queue);
  }

  #close(): void {
    this.#note('CLOSE');
    this.#closes = false;
    this.#isClosing = this.#life.subject.close();
  }

  #pump(): void {
    this.#unheard = false;
    const { subject, oracle } = this.#life;
    this.steps += 1;
    subject.pump(this.#now);
    while (subject.takeCompletion(this.#completion)) {
      const { tag, status } = this.#completion;
      this.#note(`  complete ${tag}: status ${status}`);
      this.#life.complete(tag, status);
      this.#changed = true;
      const isCleared = oracle.history.request(tag).op === OP_CLEAR_LATCH && status === STATUS_OK;
      if (isCleared) this.#isLatched = false;
    }
    // What a sync has served that succeeded in the same call is published beside the failure.
    if (this.#syncFailed) oracle.latch();
    this.#syncFailed = false;
    const command = this.#command;
    while (subject.takeCommand(command)) {
      const { id, file, offset, length } = command;
      const purpose = this.#purposeOf(command);
      this.#note(`  command ${id}: ${purpose} of file ${file} at ${offset}, ${length} bytes`);
      this.#purposes.set(id, purpose);
      this.#hosts.execute(command);
      this.#changed = true;
    }
  }

  /** In words: what a command does, and to what. */
  #purposeOf({ id, op, file, offset }: CommandRecord): string {
    const name = COMMANDS[op] ?? '';
    if (id < METADATA_IDS || op > 1) return name;
    if (file === FILE_DATA) return `${name} data file`;
    if (file === FILE_BACKING) return `${name} backing`;
    if (file !== FILE_COMPRESSED) return `${name} ${this.#life.subject.placeOf(offset)}`;
    const { history } = this.#life.oracle;
    const all = Array.from({ length: history.count }, (_, index) => index + 1);
    const open = all.filter((number) => history.isOpen(number));
    const changes = open.some((number) => isWriteClass(history.request(number).op));
    return changes ? 'compressed, to change' : 'compressed, to read';
  }

  #look(): void {
    const share = this.#case.first.image.length > LONG_BYTES ? LONG_SHARE : 1;
    if (!this.#changed || !this.#random.chance(share)) return;
    this.#changed = false;
    const { image, data } = this.#hosts;
    const life = this.#life;
    this.states += life.judge.look({ image, data }, this.#statesOfMoment, (codes) =>
      life.checkCut(codes),
    );
  }

  /** The image is closed: nothing is leaked, nothing that succeeded is missing. */
  #checkClosed(): void {
    if (this.#isLatched) return;
    const life = this.#life;
    if (!life.subject.isSettled) {
      if (this.#hostFailed) return;
      throw new RuleBroken('close', 'the image was closed and tables are not written');
    }
    const { image, data } = this.#hosts.contents();
    life.judge.checkClosed(image);
    life.checkClosed(life.judge.codesOf({ image, data, backing: life.first.backing }));
  }

  /** The process is gone; its page cache stays. Another one opens the image. */
  #kill(): void {
    this.#note('KILL: another process opens what is there');
    this.#hosts = this.#hosts.kill(this.#clusterBytes);
    const old = this.#life;
    const first = this.#found(this.#hosts.contents());
    old.checkCut(first.codes);
    this.#purposes.clear();
    this.#hostFailed = false;
    this.#unheard = false;
    this.#life = this.#begin({
      first,
      setup: this.#case.setup,
      requests: this.#case.stream.slice(this.#next),
      base: old.base + old.count,
      elder: old.elder(first.codes),
    });
  }

  /** All that can be seen is written again, and stable. */
  #repair(): void {
    if (!this.#isLatched) return;
    this.#note('  what a failed sync may have lost is put right');
    const { setup } = this.#case;
    const seen = { ...this.#life.first, ...this.#hosts.contents() };
    const latency = randomLatency(this.#random);
    this.#hosts = Hosts.holding(seen, setup.fua, this.#random, latency, {});
    this.#attach(this.#life);
  }

  #begin(beginning: Beginning): Life {
    const life = new Life(this.#open, beginning);
    this.#attach(life);
    return life;
  }

  #attach(life: Life): void {
    this.#hosts.attach(life.subject.memory, (id, errno, value) => {
      if (life !== this.#life && this.#life !== undefined) return;
      this.#note(`answer   ${id}: ${errno === 0 ? 'success' : `errno ${errno}`}`);
      if (errno !== 0) this.#fail(life, id, errno);
      life.subject.result(id, errno, value);
    });
  }

  #fail(life: Life, id: number, errno: number): void {
    const purpose = this.#purposes.get(id) ?? '';
    if (errno === ERRNO_ENOTSUP) return;
    this.failed.push(purpose);
    if (purpose === 'sync') {
      this.#syncFailed = true;
      this.#isLatched = true;
    }
    this.#hostFailed = true;
    life.excuse();
  }

  #found(files: Pick<BuiltImage, 'image' | 'data'>): BuiltImage {
    const { backing, frozen } = this.#life.first;
    const whole = { ...files, backing };
    return { ...whole, codes: this.#life.judge.codesOf(whole), frozen };
  }

  #note(text: string): void {
    this.lines?.push(text);
  }
}

const NO_DATA = { segments: 0, data: 0, offset: 0, length: 0, guest: 0 };
