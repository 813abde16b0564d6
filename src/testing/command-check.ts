/**
 * What the engine asks of its host, command by command. The oracle judges what a guest can see;
 * this judges what it cannot, and knows which request each sector of a command belongs to.
 *
 * K1 place     Each sector goes where the stripe has it, with the bytes of its own request.
 * K2 fence     No command is sent for a request that must wait: for an earlier one that overlaps
 *              it, for a barrier before it, or, being a barrier, for any earlier one.
 * K3 limits    Depth, bytes of a merged command, one class in a command; COMMAND_STABLE only for
 *              the stable class and where the host can do it.
 * K4 whole     A request completes when no command of it is at the host; it succeeds when each of
 *              its sectors was done, or when a write took its place before it was ever sent.
 * K5 sync      A sync starts only when somebody waits who owes something to that file: one at a
 *              time for a file, none while the latch is shut, none where flushes are ignored.
 *              Each sync of a run is then one that a waiter could not do without, and no order of
 *              the same events needs fewer: what the waiter owes was not proven by any sync before,
 *              and had completed before the sync began.
 * K6 oldest    Without deadlines, a request that could go is passed over for older ones only, and
 *              only when the host takes no more. (On a stripe a run may take more commands than
 *              were counted on: not checked there.)
 * K7 deadline  With deadlines, the one that goes is the one that is due (elevator-check.ts).
 */
import {
  COMMAND_DISCARD,
  COMMAND_READ,
  COMMAND_STABLE,
  COMMAND_SYNC,
  COMMAND_WRITE,
  COMMAND_WRITE_ZEROES,
} from '../abi/command.ts';
import { OP_DISCARD, OP_WRITE_ZEROES, SEGMENT_SIZE, STATUS_OK } from '../abi/request.ts';
import { ElevatorCheck } from './elevator-check.ts';
import { type HostCommand, HostCommands, newCommand } from './host-commands.ts';
import { DATA_BASE, type Lane, PAGE } from './lane.ts';
import type { Oracle } from './oracle.ts';
import { RuleBroken } from './rule-broken.ts';
import {
  conflicts,
  type EngineSetup,
  type GuestRequest,
  hasRange,
  isBarrier,
  SECTOR_BYTES,
  supersedes,
} from './stream.ts';
import { SyncCheck } from './sync-check.ts';

// Words before the table.
const TAKEN = 0;
const HEADER = 1;

// Words of a request. SENT and DONE are sets of its sectors, from bit 0; AT_HOST counts commands;
// PASSED counts those that went before it once its time was up.
const SENT = 0;
const DONE = 1;
const AT_HOST = 2;
const REQUEST = 3;

/** See the head of the file. Broken rules are thrown as RuleBroken. */
export class CommandCheck {
  /** Sectors of one file; file f begins at sector f * fileSectors of the image. */
  readonly fileSectors: number;
  /** The commands at the host. */
  readonly host: HostCommands;
  readonly syncs: SyncCheck;
  readonly elevator: ElevatorCheck;
  readonly #setup: EngineSetup;
  readonly #oracle: Oracle;
  readonly #words: Int32Array;
  readonly #command = newCommand();

  constructor(setup: EngineSetup, oracle: Oracle, requests: number) {
    const { sectors, files, chunkSectors, depth } = setup;
    const stripe = files * chunkSectors;
    this.fileSectors = Math.ceil(sectors / stripe) * chunkSectors;
    this.host = new HostCommands(Math.min(depth, requests * sectors) + 1 + files);
    this.syncs = new SyncCheck(setup, oracle, requests);
    this.elevator = new ElevatorCheck(setup, oracle, requests);
    this.#setup = setup;
    this.#oracle = oracle;
    this.#words = new Int32Array(HEADER + requests * REQUEST);
  }

  /** Becomes a copy of a check of the same setup. */
  copyFrom(other: CommandCheck): void {
    this.host.copyFrom(other.host);
    this.syncs.copyFrom(other.syncs);
    this.elevator.copyFrom(other.elevator);
    this.#words.set(other.#words);
  }

  /** Where a sector of the disk lies in the image. */
  placeOf(sector: number): number {
    const { files, chunkSectors } = this.#setup;
    const chunk = Math.floor(sector / chunkSectors);
    const inFile = Math.floor(chunk / files) * chunkSectors + (sector % chunkSectors);
    return (chunk % files) * this.fileSectors + inFile;
  }

  /** The sector of the disk that lies here in the image. */
  sectorAt(place: number): number {
    const { files, chunkSectors } = this.#setup;
    const file = Math.floor(place / this.fileSectors);
    const inFile = place % this.fileSectors;
    const chunk = Math.floor(inFile / chunkSectors) * files + file;
    return chunk * chunkSectors + (inFile % chunkSectors);
  }

  /** The engine has taken the requests up to this number by this time. */
  taken(count: number, now: number): void {
    this.syncs.taken(count, now);
    this.#words[TAKEN] = count;
  }

  /** Commands of this call of the engine follow. */
  beginEmission(): void {
    this.elevator.begin(this.#setup.depth - this.host.dataCount);
  }

  /** The engine has sent the command that the lane holds; returns it with its requests. */
  receive(lane: Lane): HostCommand {
    const { id, op, flags, file, from, to } = lane.command;
    const command = this.#command;
    command.id = id;
    command.op = op;
    command.file = file;
    command.from = file * this.fileSectors + from;
    command.count = op === COMMAND_SYNC ? 0 : to - from;
    command.stable = (flags & COMMAND_STABLE) !== 0;
    command.owners.length = 0;
    if (file >= this.#setup.files) refuse('place', `a command for file ${file}`);
    if (this.host.has(id)) refuse('once', `command ${id} is sent twice`);
    if (op === COMMAND_SYNC) this.syncs.begin(command, (number) => this.#isWritten(number));
    else this.#receiveData(lane, command);
    this.host.append(command);
    return command;
  }

  /** All commands of this call have been received (K6, K7). */
  endEmission(now: number): void {
    const { elevator, syncs } = this;
    for (let number = 1; number <= this.#get(TAKEN); number++) {
      if (!this.#isOpen(number) || this.#get(requestAt(number) + SENT) !== 0) continue;
      if (!hasRange(this.#request(number).op)) continue;
      if (this.#successorOf(number) !== 0) elevator.lose();
      else if (this.#isFree(number)) elevator.waits(number);
    }
    const room = this.#setup.depth - this.host.dataCount;
    elevator.end(now, (number) => syncs.takenAt(number), room);
  }

  /** The host answers the command at this place. */
  answer(index: number, command: HostCommand, succeeded: boolean, full: boolean): void {
    const { host, syncs } = this;
    host.take(index, command);
    syncs.tick();
    if (command.op === COMMAND_SYNC) {
      syncs.end(command.file, succeeded);
      return;
    }
    let last = 0;
    for (const [sector, owner] of command.owners.entries()) {
      const at = requestAt(owner);
      const bit = this.#bitOf(owner, command.from + sector);
      const done = this.#get(at + DONE);
      this.#words[at + DONE] = succeeded ? done | bit : done & ~bit;
      if (!succeeded) this.#oracle.hostFailed(owner, full);
      if (owner === last) continue;
      last = owner;
      this.#words[at + AT_HOST] = this.#get(at + AT_HOST) - 1;
      syncs.wrote(owner);
    }
    const isStable = command.stable && succeeded;
    if (command.op !== COMMAND_READ && !isStable) syncs.dirty(command.file);
  }

  /** A request completes (K4). */
  complete(number: number, status: number): void {
    const at = requestAt(number);
    if (this.#get(at + AT_HOST) > 0) {
      refuse('whole', `${this.#name(number)} completes while the host still works on it`);
    }
    if (!hasRange(this.#request(number).op)) return;
    if (status === STATUS_OK && this.#isWritten(number)) return;
    const later = this.#successorOf(number);
    if (status !== STATUS_OK) {
      if (later !== 0) this.#oracle.failedAs(number, later);
      return;
    }
    if (later !== 0 && this.#isWritten(later)) return;
    refuse('whole', `${this.#name(number)} succeeds although a part of it was not done`);
  }

  #receiveData(lane: Lane, command: HostCommand): void {
    const { op, from, count, owners } = command;
    const end = (command.file + 1) * this.fileSectors;
    if (count <= 0 || from + count > end) refuse('place', 'a command outside its file');
    if (op === COMMAND_READ || op === COMMAND_WRITE) this.#findOwners(lane, command);
    else this.#guessOwners(command);
    let requests = 0;
    let oldest = 0;
    for (const [index, owner] of owners.entries()) {
      if (index > 0 && owners[index - 1] === owner) continue;
      requests += 1;
      this.#checkFence(owner);
      this.#checkClass(owner, command);
      if (oldest === 0 || owner < oldest) oldest = owner;
    }
    // What goes on with a request that was begun is no choice of the elevator.
    if (this.#get(requestAt(oldest) + SENT) === 0) this.elevator.sent(oldest);
    else this.elevator.lose();
    this.#noteSent(command);
    this.#checkLimits(command, requests);
  }

  #noteSent({ from, owners }: HostCommand): void {
    let last = 0;
    for (const [index, owner] of owners.entries()) {
      const at = requestAt(owner);
      this.#words[at + SENT] = this.#get(at + SENT) | this.#bitOf(owner, from + index);
      if (owner !== last) this.#words[at + AT_HOST] = this.#get(at + AT_HOST) + 1;
      last = owner;
    }
  }

  /** K3. */
  #checkLimits({ op, count, stable }: HostCommand, requests: number): void {
    const { depth, mergeBytes, fua, noFlush } = this.#setup;
    if (stable && !fua) refuse('limits', 'a stable command for a host that cannot do it');
    if (stable && noFlush) refuse('limits', 'a stable command although flushes are ignored');
    const data = this.host.dataCount + 1;
    if (data > depth) refuse('limits', `${data} commands at the host at depth ${depth}`);
    const carries = op === COMMAND_READ || op === COMMAND_WRITE;
    if (carries && requests > 1 && count * SECTOR_BYTES > mergeBytes) {
      refuse('limits', `a command of ${count} sectors is merged past the limit`);
    }
  }

  /** The requests whose bytes a command carries, by their addresses (K1). */
  #findOwners(lane: Lane, { from, count, owners }: HostCommand): void {
    const { segments, data } = lane.command;
    for (let index = 0; index < Math.max(1, segments); index++) {
      const entry = data + index * SEGMENT_SIZE;
      const address = segments === 1 ? data : lane.word(entry);
      const bytes = segments === 1 ? count * SECTOR_BYTES : lane.word(entry + 4);
      for (let at = address; at < address + bytes; at += SECTOR_BYTES) {
        const owner = Math.floor((at - DATA_BASE) / PAGE);
        const inRequest = ((at - DATA_BASE) % PAGE) / SECTOR_BYTES;
        const sector = this.sectorAt(from + owners.length);
        const isOpen = owner >= 1 && owner <= this.#get(TAKEN) && this.#isOpen(owner);
        if (!isOpen) refuse('place', 'a command with bytes of no open request');
        if (this.#request(owner).from + inRequest !== sector) {
          refuse('place', `bytes of ${this.#name(owner)} are sent to sector ${sector}`);
        }
        owners.push(owner);
      }
    }
    if (owners.length !== count) refuse('place', 'the segments of a command are not its length');
  }

  /** Zeroes and discards have no bytes: the first open request that wants this here. */
  #guessOwners({ op, from, count, owners }: HostCommand): void {
    const wanted = op === COMMAND_WRITE_ZEROES ? OP_WRITE_ZEROES : OP_DISCARD;
    if (op !== COMMAND_WRITE_ZEROES && op !== COMMAND_DISCARD) refuse('place', `command ${op}`);
    for (let index = 0; index < count; index++) {
      const sector = this.sectorAt(from + index);
      let found = 0;
      for (let number = this.#get(TAKEN); number >= 1; number--) {
        const request = this.#request(number);
        const fits = request.op === wanted && request.from <= sector && sector < request.to;
        if (fits && this.#isOpen(number)) found = number;
      }
      if (found === 0) refuse('place', `zeroes or a discard that nobody wants in sector ${sector}`);
      owners.push(found);
    }
  }

  /** K2. */
  #checkFence(owner: number): void {
    const request = this.#request(owner);
    const fence = isBarrier(request);
    for (let number = 1; number < owner; number++) {
      if (!this.#isOpen(number)) continue;
      const earlier = this.#request(number);
      if (fence || isBarrier(earlier)) {
        refuse('fence', `${this.#name(owner)} is sent before ${this.#name(number)} has completed`);
      }
      if (!conflicts(earlier, request, this.#setup.granuleSectors)) continue;
      if (this.#successorOf(number) !== 0) continue;
      const text = `${this.#name(owner)} is sent while ${this.#name(number)}, which it overlaps`;
      refuse('fence', `${text}, has not completed`);
    }
  }

  /** K3. */
  #checkClass(owner: number, command: HostCommand): void {
    if (command.op !== COMMAND_WRITE || !this.#oracle.history.isVolatile(owner)) return;
    if (isBarrier(this.#request(owner)) && this.#setup.barrier === 'durable') return;
    if (command.stable) {
      refuse('limits', `${this.#name(owner)} is volatile and goes with a stable command`);
    }
    const other = command.owners.find((number) => this.#oracle.history.isStable(number));
    if (other !== undefined) {
      refuse('limits', `${this.#name(other)} is stable and merged with ${this.#name(owner)}`);
    }
  }

  /**
   * The last of the writes that took this one's place, each that of the one before, when none of
   * them was sent yet (U1); 0 when there is none.
   */
  #successorOf(number: number): number {
    if (this.#get(requestAt(number) + SENT) !== 0 || this.#oracle.history.isStable(number))
      return 0;
    const request = this.#request(number);
    let last = 0;
    for (let later = number + 1; later <= this.#get(TAKEN); later++) {
      if (!supersedes(this.#request(later), request)) continue;
      if (this.#get(requestAt(later) + SENT) !== 0) return later;
      last = later;
    }
    return last;
  }

  /** Nothing keeps a request that was not sent from going but the elevator. */
  #isFree(number: number): boolean {
    const request = this.#request(number);
    if (isBarrier(request)) return false;
    for (let other = 1; other < number; other++) {
      if (!this.#isOpen(other)) continue;
      const earlier = this.#request(other);
      if (isBarrier(earlier) || conflicts(earlier, request, this.#setup.granuleSectors)) {
        return false;
      }
    }
    return true;
  }

  /** All sectors of the request were done. */
  #isWritten(number: number): boolean {
    const { from, to } = this.#request(number);
    return this.#get(requestAt(number) + DONE) === (1 << (to - from)) - 1;
  }

  #bitOf(owner: number, place: number): number {
    return 1 << (this.sectorAt(place) - this.#request(owner).from);
  }

  #request(number: number): GuestRequest {
    return this.#oracle.history.request(number);
  }

  #isOpen(number: number): boolean {
    return this.#oracle.history.isOpen(number);
  }

  #name(number: number): string {
    return this.#oracle.history.name(number);
  }

  #get(at: number): number {
    return this.#words[at] ?? 0;
  }
}

function requestAt(number: number): number {
  return HEADER + (number - 1) * REQUEST;
}

function refuse(rule: string, message: string): never {
  throw new RuleBroken(rule, message);
}
