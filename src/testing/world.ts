/**
 * One stream of requests under way: an engine, the disk below it, and those who judge. All of it
 * can be saved and put back, so that whoever explores may try every event at every step.
 */
import {
  COMMAND_DISCARD,
  COMMAND_READ,
  COMMAND_SYNC,
  COMMAND_WRITE,
  ERRNO_EIO,
  ERRNO_ENOSPC,
} from '../abi/command.ts';
import { STATE_WAIT_NEVER } from '../abi/region.ts';
import { OP_CLEAR_LATCH, OP_READ, STATUS_OK } from '../abi/request.ts';
import { CommandCheck } from './command-check.ts';
import { COMMAND_SECTORS, type HostCommand, newCommand } from './host-commands.ts';
import {
  ANSWER,
  ANSWER_QUIETLY,
  EXPIRE,
  FAIL,
  FILL,
  KIND_BITS,
  KIND_MASK,
  QUEUE,
  SUBMIT,
  TEAR,
  WAIT,
} from './events.ts';
import type { FaultName } from './explore-types.ts';
import type { Lane } from './lane.ts';
import { Oracle } from './oracle.ts';
import { foundImage, restart } from './restart.ts';
import { RuleBroken } from './rule-broken.ts';
import { ANYTHING, type SectorImage } from './sector-image.ts';
import type { EngineSetup, GuestRequest } from './stream.ts';

/** How often time passes on one path, each way. */
const EXPIRIES = 2;
const WAITS = 6;

// What a world knows of itself, saved with it.
const NEXT = 0;
const NOW = 1;
const FAULTS_LEFT = 2;
const QUEUED = 3;
const QUIET = 4;
const EXPIRED = 5;
const WAITED = 6;
const SYNCS_FAILED = 7;
const SYNCS_DONE = 8;
const EVER_FAILED = 9;
const STATE = 10;

interface Saved {
  readonly image: SectorImage;
  readonly oracle: Oracle;
  readonly check: CommandCheck;
  readonly state: Int32Array;
}

/** What is told of a run: for the timeline of a failure. */
export interface Witness {
  submitted(number: number): void;
  /** The engine has sent a command; `command` follows when it breaks no rule. */
  sending(command: Lane['command']): void;
  command(command: HostCommand): void;
  answered(command: HostCommand, outcome: number): void;
  completed(number: number, status: number): void;
  note(text: string): void;
}

/** See the head of the file. Broken rules are thrown as RuleBroken. */
export class World {
  readonly setup: EngineSetup;
  readonly stream: readonly GuestRequest[];
  readonly image: SectorImage;
  readonly oracle: Oracle;
  readonly check: CommandCheck;
  readonly lane: Lane;
  /** Calls of the engine. */
  steps = 0;
  witness: Witness | undefined;
  readonly #faults: ReadonlySet<FaultName>;
  readonly #state: Int32Array;
  readonly #places: readonly number[];
  readonly #saved: Saved[] = [];
  readonly #first: Saved;
  readonly #faultsLeft: number;
  readonly #command = newCommand();
  readonly #survivors: (sector: number, values: number[]) => number;
  readonly #killSurvivors: (sector: number, values: number[]) => number;

  /** @param faultsLeft how many commands may fail on one path */
  constructor(
    lane: Lane,
    setup: EngineSetup,
    stream: readonly GuestRequest[],
    faults: ReadonlySet<FaultName>,
    faultsLeft: number,
  ) {
    this.lane = lane;
    this.setup = setup;
    this.stream = stream;
    this.#faults = faults;
    const requests = stream.length;
    this.oracle = new Oracle({ ...setup, requests });
    this.check = new CommandCheck(setup, this.oracle, requests);
    this.image = foundImage(this.check.fileSectors * setup.files);
    // Behind the state, what each request has read.
    this.#state = new Int32Array(STATE + requests * COMMAND_SECTORS);
    const { sectors } = setup;
    const places = Array.from({ length: sectors }, (_, sector) => this.check.placeOf(sector));
    this.#places = places;
    const { image } = this;
    this.#survivors = (sector, values) => image.survivorsInto(places[sector] ?? 0, values);
    this.#killSurvivors = (sector, values) => image.killSurvivorsInto(places[sector] ?? 0, values);
    this.#first = this.#newSaved();
    this.#faultsLeft = faultsLeft;
    this.begin();
  }

  /** Everything is as at first: a new engine, a new disk. `faults` may fail on the way. */
  begin(faults = this.#faultsLeft): void {
    this.lane.begin(this.setup);
    this.image.copyFrom(this.#first.image);
    this.oracle.copyFrom(this.#first.oracle);
    this.check.copyFrom(this.#first.check);
    this.#state.fill(0);
    this.#state[FAULTS_LEFT] = faults;
  }

  /** Remembers everything as the state of `depth`. */
  save(depth: number): void {
    while (this.#saved.length <= depth) this.#saved.push(this.#newSaved());
    const saved = this.#saved[depth];
    if (saved === undefined) return;
    this.lane.save(depth);
    saved.image.copyFrom(this.image);
    saved.oracle.copyFrom(this.oracle);
    saved.check.copyFrom(this.check);
    saved.state.set(this.#state);
  }

  /** Back to what was saved at `depth`. */
  restore(depth: number): void {
    const saved = this.#saved[depth];
    if (saved === undefined) return;
    this.lane.restore(depth);
    this.image.copyFrom(saved.image);
    this.oracle.copyFrom(saved.oracle);
    this.check.copyFrom(saved.check);
    this.#state.set(saved.state);
  }

  /** Puts what may happen next into `events`; returns how many there are. */
  events(events: number[]): number {
    let count = 0;
    const left = this.stream.length - this.#get(NEXT);
    const atHost = this.check.host.count;
    const quiet = this.#get(QUIET) !== 0;
    const queued = this.#get(QUEUED) !== 0;
    for (let index = 0; index < atHost; index++) events[count++] = ANSWER | (index << KIND_BITS);
    if (left > 0) events[count++] = SUBMIT;
    // Answers are taken before requests, whichever came first: it is enough to put off one of them.
    if (left > 0 && !quiet && (left > 1 || atHost > 0)) events[count++] = QUEUE;
    if (!queued && !quiet && atHost > 1) {
      for (let at = 0; at < atHost; at++) events[count++] = ANSWER_QUIETLY | (at << KIND_BITS);
    }
    if (this.#get(FAULTS_LEFT) > 0) count = this.#faultsInto(events, count);
    if (quiet || queued) return count;
    if (this.#canWait()) events[count++] = WAIT;
    const canExpire = this.setup.deadline && atHost > 0 && this.#get(EXPIRED) < EXPIRIES;
    if (canExpire) events[count++] = EXPIRE;
    return count;
  }

  /** Lets an event happen. */
  apply(event: number): void {
    const kind = event & KIND_MASK;
    switch (kind) {
      case SUBMIT:
      case QUEUE:
        this.#submit();
        break;
      case WAIT:
        this.#pass(this.lane.wait);
        this.#add(WAITED, 1);
        break;
      case EXPIRE:
        this.#pass(Math.max(this.setup.readExpiry, this.setup.writeExpiry));
        this.#add(EXPIRED, 1);
        break;
      default:
        this.#answer(event >>> KIND_BITS, kind);
    }
    if (kind === QUEUE || kind === ANSWER_QUIETLY) {
      this.#state[kind === QUEUE ? QUEUED : QUIET] = 1;
      return;
    }
    this.#state[QUEUED] = 0;
    this.#state[QUIET] = 0;
    this.#pump();
  }

  /** The power is cut here: returns how many contents the disk may have. The world goes on. */
  cut(): number {
    const contents = this.oracle.checkCut(this.#survivors);
    this.oracle.checkKill(this.#killSurvivors);
    return contents;
  }

  /**
   * The process is killed here, a new one opens the disk and flushes: everything that was found is
   * stable then (F7). The world ends. `keeps` says which sectors writes in flight have changed.
   */
  kill(keeps: (sector: number) => boolean): void {
    this.witness?.note('KILL: the process is gone, its page cache stays');
    this.image.kill((_, sector) => keeps(sector));
    // Whoever opens a disk anew after a failed sync has looked at the damage.
    if (this.#get(EVER_FAILED) !== 0) this.image.redirty();
    this.witness?.note('a new engine opens the disk and is asked to flush');
    this.steps += restart(this.lane, this.image, this.setup, this.check.fileSectors);
    if (this.setup.noFlush) return;
    for (const place of this.#places) {
      if (this.image.survivors(place).size === 1) continue;
      const text = 'a flush after a restart succeeds and what was found is not stable';
      throw new RuleBroken('kill', text);
    }
  }

  /** Nothing can happen any more. */
  checkEnd(): void {
    this.oracle.checkIdle();
  }

  #faultsInto(events: number[], from: number): number {
    const faults = this.#faults;
    let count = from;
    for (let index = 0; index < this.check.host.count; index++) {
      const op = this.check.host.opAt(index);
      const at = index << KIND_BITS;
      if (op === COMMAND_SYNC) {
        if (faults.has('sync')) events[count++] = FAIL | at;
      } else if (op === COMMAND_READ) {
        if (faults.has('read')) events[count++] = FAIL | at;
      } else {
        if (faults.has('write')) events[count++] = FAIL | at;
        if (faults.has('torn')) events[count++] = TEAR | at;
        if (faults.has('space')) events[count++] = FILL | at;
      }
    }
    return count;
  }

  #canWait(): boolean {
    if (this.setup.flushWait === 0 || this.#get(WAITED) >= WAITS) return false;
    return this.lane.wait !== STATE_WAIT_NEVER;
  }

  #submit(): void {
    const request = this.stream[this.#get(NEXT)];
    if (request === undefined) return;
    this.#add(NEXT, 1);
    const number = this.oracle.submit(request);
    this.witness?.submitted(number);
    this.lane.submit(request, number);
  }

  #pass(microseconds: number): void {
    this.witness?.note(`${microseconds} us pass`);
    this.#add(NOW, microseconds);
  }

  #answer(index: number, outcome: number): void {
    const succeeded = outcome === ANSWER || outcome === ANSWER_QUIETLY;
    const command = this.#command;
    this.check.answer(index, command, succeeded, outcome === FILL);
    this.witness?.answered(command, outcome);
    if (!succeeded) this.#add(FAULTS_LEFT, -1);
    const { id, op, from, count } = command;
    if (op === COMMAND_SYNC) {
      this.image.endSync(id, succeeded);
      this.#add(succeeded ? SYNCS_DONE : SYNCS_FAILED, 1);
    } else if (op === COMMAND_READ) {
      this.#read(command);
    } else if (succeeded) {
      this.image.completeWrite(id, command.stable);
    } else {
      const torn = outcome === FAIL ? from : from + Math.ceil(count / 2);
      this.image.failWrite(id, (sector) => sector < torn);
      const { fileSectors } = this.check;
      const first = command.file * fileSectors;
      if (command.stable) this.image.hideLosses(first, first + fileSectors);
    }
    const errno = outcome === FILL ? ERRNO_ENOSPC : ERRNO_EIO;
    this.lane.answer(id, succeeded ? 0 : errno);
  }

  #read({ from, owners }: HostCommand): void {
    for (const [index, owner] of owners.entries()) {
      const sector = this.check.sectorAt(from + index) - this.oracle.history.request(owner).from;
      const at = STATE + (owner - 1) * COMMAND_SECTORS + sector;
      this.#state[at] = this.image.now(from + index);
    }
  }

  #pump(): void {
    const { lane, oracle, check } = this;
    const now = this.#get(NOW);
    lane.pump(now);
    this.steps += 1;
    // With a sync that succeeded in the same call, what it served is published beside the failure.
    const failed = this.#get(SYNCS_FAILED) > 0;
    const early = failed && this.#get(SYNCS_DONE) === 0;
    this.#state[SYNCS_FAILED] = 0;
    this.#state[SYNCS_DONE] = 0;
    if (failed) this.#state[EVER_FAILED] = 1;
    if (failed) oracle.syncFailed();
    if (early) oracle.latch();
    check.taken(lane.taken, now);
    let cleared = false;
    while (lane.takeCompletion()) {
      const { tag, status } = lane.completion;
      cleared = this.#complete(tag, status) || cleared;
    }
    if (failed && !early && !cleared) oracle.latch();
    check.beginEmission();
    while (lane.takeCommand()) this.#receive();
    check.endEmission(now);
    const { flushWait } = this.setup;
    if (flushWait > 0 && check.syncs.isOverdue(now, flushWait)) {
      throw new RuleBroken('wait', `a flush has waited ${flushWait} us and no sync runs`);
    }
  }

  /** True when it opens the latch. */
  #complete(number: number, status: number): boolean {
    this.witness?.completed(number, status);
    const { op } = this.oracle.history.request(number);
    this.check.complete(number, status);
    const at = STATE + (number - 1) * COMMAND_SECTORS;
    const values = op === OP_READ ? this.#state.subarray(at, at + COMMAND_SECTORS) : undefined;
    this.oracle.complete(number, status, values);
    if (op !== OP_CLEAR_LATCH || status !== STATUS_OK) return false;
    // Whoever clears the latch has put the damage right, by writing it again.
    this.check.syncs.clearLatch();
    this.image.redirty();
    return true;
  }

  #receive(): void {
    const { witness } = this;
    if (witness !== undefined) witness.sending(this.lane.command);
    const command = this.check.receive(this.lane);
    witness?.command(command);
    const { id, op, file, from, count, owners } = command;
    const { fileSectors } = this.check;
    if (op === COMMAND_SYNC) this.image.beginSync(id, file * fileSectors, (file + 1) * fileSectors);
    else if (op === COMMAND_WRITE) this.image.beginWrite(id, from, owners);
    else if (op !== COMMAND_READ) {
      this.image.beginWrite(id, from, op === COMMAND_DISCARD ? NOTHING_KNOWN : ZEROES, count);
    }
  }

  #newSaved(): Saved {
    const { setup, stream } = this;
    const requests = stream.length;
    const oracle = new Oracle({ ...setup, requests });
    return {
      image: this.image.clone(),
      oracle,
      check: new CommandCheck(setup, oracle, requests),
      state: new Int32Array(this.#state.length),
    };
  }

  #get(word: number): number {
    return this.#state[word] ?? 0;
  }

  #add(word: number, amount: number): void {
    this.#state[word] = this.#get(word) + amount;
  }
}

const ZEROES = Array.from({ length: COMMAND_SECTORS }, () => 0);
const NOTHING_KNOWN = Array.from({ length: COMMAND_SECTORS }, () => ANYTHING);
