/**
 * What a disk holds while it is written and synced: for each sector the value that reads see, the
 * value that is stable, and every value that a power cut may leave. Contents are opaque numbers:
 * who uses it decides what they stand for (a request, a buffer, a version).
 *
 * I1 A write changes what reads see when it completes, never before; from its beginning on a power
 *    cut may leave it, whole, in part or not at all: each sector by itself.
 * I2 A stable write is stable when it completes; the others stay volatile. A sector keeps every
 *    volatile value since the stable one: a power cut may leave any of them.
 * I3 A sync that succeeds makes stable what had completed when it began, and says nothing about
 *    what completed while it ran.
 * I4 A sync that fails makes nothing stable, and what it should have written counts as clean from
 *    then on, as on Linux: no later sync writes it, a power cut may or may not leave it. Only
 *    another write (or `redirty`) of the sector makes it a later sync's business again.
 *    That is so too for what was in flight or completed while it ran: it was in the page cache.
 * I5 A failed write has changed the sectors that its caller names. These are volatile, like those
 *    of any other write.
 * I6 When a stable write has failed, other stable ones that are in flight beside it may be lost
 *    although they will succeed (`hideLosses`): Linux tells one of the writers on a descriptor.
 * I7 On a disk that lies, syncs and stable writes prove nothing.
 *
 * All state stands in one array of words, so that a copy (`copyFrom`) costs as much as a memcpy of
 * a few hundred bytes: an explorer forks an image at every step. Behind a few words for each sector
 * lies a pool of records in lists: the values of a sector, the writes in flight, the syncs.
 */
import { invalid } from '../arguments.ts';
import { type Cut, survival, type VolatileWrite } from './cut.ts';
import { Random } from './random.ts';
import { NEXT, RECORD_ID, RecordPool } from './record-pool.ts';
import { DIRTY, IN_FLIGHT, isInFlight, LOSING, LOST, UNTOLD } from './value-state.ts';

export type { Cut, VolatileWrite } from './cut.ts';

/** The value of a sector of which nothing is known: what a discard leaves. */
export const ANYTHING = -1;

/** How an image begins. */
export interface SectorImageOptions {
  readonly sectors: number;
  /** What every sector holds, stable, at first; default 0. */
  readonly value?: number;
  /** Syncs and stable writes answer that all is well and prove nothing; default false. */
  readonly lies?: boolean;
}

// Header words. FLIGHTS and SYNCS are lists.
const CLOCK = 1;
const WRITES = 2;
const FLIGHTS = 3;
const SYNCS = 4;
const HEADER = 5;

// Words of a sector. LIST: its values that are not stable, newest beginning first.
const STABLE = 0;
const NOW = 1;
const LIST = 2;
const SECTOR = 3;

// Words of a record (record-pool.ts).
// A value of a sector. VERSION: the clock of its completion, 0 in flight.
const VALUE = 0;
const VERSION = 1;
const STATE = 2;
const WRITE = 3;
// A write in flight.
const ID = RECORD_ID;
const FROM = 1;
const COUNT = 2;
const NUMBER = 3;
// A sync: ID, FROM, and
const TO = 2;
const BEGAN = 3;

/** Records of a new image; the pool doubles when it is full. */
const POOL = 24;

/**
 * See the head of the file. Ids of writes and syncs are the caller's, such as a command's; each
 * names one operation at a time.
 *
 * ```ts
 * const image = new SectorImage({ sectors: 8 });
 * image.beginWrite(1, 0, [7, 7]);
 * image.completeWrite(1);
 * image.survivors(0);       // Set { 0, 7 }
 * image.beginSync(2);
 * image.endSync(2, true);
 * image.survivors(0);       // Set { 7 }
 * ```
 */
export class SectorImage {
  readonly sectors: number;
  readonly lies: boolean;
  readonly #pool: RecordPool;

  /** Values are whole numbers of 32 bits. */
  constructor(options: SectorImageOptions) {
    this.sectors = options.sectors;
    this.lies = options.lies ?? false;
    this.#pool = new RecordPool(HEADER + options.sectors * SECTOR, POOL);
    for (let sector = 0; sector < options.sectors; sector++) {
      const at = this.#at(sector);
      this.#set(at + STABLE, options.value ?? 0);
      this.#set(at + NOW, options.value ?? 0);
    }
  }

  /** What a read of the sector sees. */
  now(sector: number): number {
    return this.#get(this.#at(sector) + NOW);
  }

  /** What a power cut leaves when it leaves nothing that is volatile. */
  stable(sector: number): number {
    return this.#get(this.#at(sector) + STABLE);
  }

  /** A write of `values`, one for each sector from `from` on, is handed to the disk (I1). */
  beginWrite(id: number, from: number, values: ArrayLike<number>, count = values.length): void {
    if (from < 0 || count < 0 || from + count > this.sectors) {
      throw invalid(`a write of ${count} sectors at ${from} on a disk of ${this.sectors}`);
    }
    if (this.#pool.find(FLIGHTS, id) !== 0) throw invalid(`write ${id} is in flight already`);
    const { words } = this.#pool;
    const number = this.#get(WRITES) + 1;
    words[WRITES] = number;
    const flight = this.#pool.take(FLIGHTS);
    this.#set(flight + ID, id);
    this.#set(flight + FROM, from);
    this.#set(flight + COUNT, count);
    this.#set(flight + NUMBER, number);
    for (let index = 0; index < count; index++) {
      const entry = this.#pool.take(this.#at(from + index) + LIST);
      this.#set(entry + VALUE, values[index] ?? 0);
      this.#set(entry + VERSION, 0);
      this.#set(entry + STATE, IN_FLIGHT);
      this.#set(entry + WRITE, number);
    }
  }

  /** A discard is handed to the disk: a write of ANYTHING. */
  beginDiscard(id: number, from: number, count: number): void {
    const values = new Int32Array(count).fill(ANYTHING);
    this.beginWrite(id, from, values);
  }

  /** The write or discard has succeeded; `stable`: it is on stable storage (I2). */
  completeWrite(id: number, stable = false): void {
    this.#endWrite(id, stable && !this.lies, undefined);
  }

  /** The write has failed; where `changed` says so the sector has its value (I5). */
  failWrite(id: number, changed: (sector: number) => boolean): void {
    this.#endWrite(id, false, changed);
  }

  /** A stable write to one of the sectors `from` to `to` has failed (I6). */
  hideLosses(from = 0, to = this.sectors): void {
    const { words } = this.#pool;
    for (let sector = from; sector < to; sector++) {
      let entry = this.#get(this.#at(sector) + LIST);
      for (; entry !== 0; entry = this.#get(entry + NEXT)) {
        if (isInFlight(words[entry + STATE])) words[entry + STATE] = UNTOLD;
      }
    }
  }

  /** A sync of the sectors `from` to `to` is handed to the disk (I3). */
  beginSync(id: number, from = 0, to = this.sectors): void {
    if (this.#pool.find(SYNCS, id) !== 0) throw invalid(`sync ${id} is running already`);
    const sync = this.#pool.take(SYNCS);
    this.#set(sync + ID, id);
    this.#set(sync + FROM, from);
    this.#set(sync + TO, to);
    this.#set(sync + BEGAN, this.#get(CLOCK));
  }

  /** The sync has ended: I3, or I4 when it has failed. */
  endSync(id: number, succeeded: boolean): void {
    const sync = this.#pool.find(SYNCS, id);
    if (sync === 0) throw invalid(`there is no sync ${id}`);
    const began = this.#get(sync + BEGAN);
    const to = this.#get(sync + TO);
    for (let sector = this.#get(sync + FROM); sector < to; sector++) {
      if (!succeeded) this.#lose(sector);
      else if (!this.lies) this.#settle(sector, began);
    }
    this.#pool.drop(SYNCS, sync);
  }

  /** The sectors are written again with what they hold: a later sync makes them stable. */
  redirty(from = 0, to = this.sectors): void {
    const number = this.#get(WRITES) + 1;
    this.#set(WRITES, number);
    const version = this.#tick();
    for (let sector = from; sector < to; sector++) {
      const entry = this.#pool.take(this.#at(sector) + LIST);
      this.#set(entry + VALUE, this.now(sector));
      this.#set(entry + VERSION, version);
      this.#set(entry + STATE, DIRTY);
      this.#set(entry + WRITE, number);
    }
  }

  /** Every value that the sector may hold after a power cut now. */
  survivors(sector: number): Set<number> {
    const values: number[] = [];
    this.survivorsInto(sector, values);
    return new Set(values);
  }

  /** The same into an array, the stable value first; returns how many, each once. */
  survivorsInto(sector: number, values: number[]): number {
    const { words } = this.#pool;
    const at = this.#at(sector);
    values[0] = this.#get(at + STABLE);
    let count = 1;
    for (let entry = this.#get(at + LIST); entry !== 0; entry = words[entry + NEXT] ?? 0) {
      const value = words[entry + VALUE] ?? 0;
      let known = 0;
      while (known < count && values[known] !== value) known++;
      if (known === count) values[count++] = value;
    }
    return count;
  }

  /** What the sector may hold when the process is killed: what reads see, or what is in flight. */
  killSurvivorsInto(sector: number, values: number[]): number {
    const { words } = this.#pool;
    const at = this.#at(sector);
    values[0] = this.#get(at + NOW);
    let count = 1;
    for (let entry = this.#get(at + LIST); entry !== 0; entry = words[entry + NEXT] ?? 0) {
      if (isInFlight(words[entry + STATE])) values[count++] = words[entry + VALUE] ?? 0;
    }
    return count;
  }

  /** The writes that a power cut may undo: in completion order, then those in flight. */
  volatileWrites(): VolatileWrite[] {
    const writes = new Map<number, { completed: number; sectors: number[] }>();
    for (let sector = 0; sector < this.sectors; sector++) {
      for (const entry of this.#pool.list(this.#at(sector) + LIST)) {
        const number = this.#get(entry + WRITE);
        const write = writes.get(number) ?? { completed: this.#get(entry + VERSION), sectors: [] };
        write.sectors.push(sector);
        writes.set(number, write);
      }
    }
    const age = ({ completed }: { completed: number }): number => completed || Infinity;
    return Array.from(writes, ([write, rest]) => ({ write, ...rest })).sort(
      (a, b) => (age(a) === age(b) ? 0 : age(a) - age(b)) || a.write - b.write,
    );
  }

  /** The host loses power: what is left is stable, nothing is in flight or running. */
  cut(cut: Cut): void {
    const left = this.leftBy(cut, this.volatileWrites());
    this.#reset(Array.from({ length: this.sectors }, (_, sector) => left(sector)));
  }

  /** What a cut of these volatile writes leaves; asked for each sector from the first on. */
  leftBy(cut: Cut, writes: readonly VolatileWrite[]): (sector: number) => number {
    if (cut.kind === 'sample') {
      const random = new Random(cut.seed);
      const values: number[] = [];
      return (sector) => values[random.below(this.survivorsInto(sector, values))] ?? 0;
    }
    const ranks = new Map(writes.map(({ write }, rank) => [write, rank]));
    const survives = survival(cut, writes);
    return (sector) => {
      let newest = -1;
      let value = this.stable(sector);
      let entry = this.#get(this.#at(sector) + LIST);
      for (; entry !== 0; entry = this.#get(entry + NEXT)) {
        const rank = ranks.get(this.#get(entry + WRITE)) ?? 0;
        if (rank <= newest || !survives(rank, sector)) continue;
        newest = rank;
        value = this.#get(entry + VALUE);
      }
      return value;
    };
  }

  /**
   * The process that used the disk is killed: the host's page cache stays. Writes in flight have
   * changed the sectors for which `changed` says so; syncs prove nothing.
   */
  kill(changed: (id: number, sector: number) => boolean): void {
    for (const flight of this.#pool.list(FLIGHTS)) {
      const id = this.#get(flight + ID);
      this.failWrite(id, (sector) => changed(id, sector));
    }
    for (const sync of this.#pool.list(SYNCS)) this.#pool.drop(SYNCS, sync);
  }

  /** A copy that goes its own way. */
  clone(): SectorImage {
    const image = new SectorImage({ sectors: this.sectors, lies: this.lies });
    image.copyFrom(this);
    return image;
  }

  /** Becomes a copy of an image with as many sectors. */
  copyFrom(other: SectorImage): void {
    this.#pool.copyFrom(other.#pool);
  }

  #endWrite(id: number, stable: boolean, changed: ((sector: number) => boolean) | undefined): void {
    const flight = this.#pool.find(FLIGHTS, id);
    if (flight === 0) throw invalid(`there is no write ${id}`);
    const { words } = this.#pool;
    const number = this.#get(flight + NUMBER);
    const from = this.#get(flight + FROM);
    const to = from + this.#get(flight + COUNT);
    const version = this.#tick();
    for (let sector = from; sector < to; sector++) {
      const list = this.#at(sector) + LIST;
      let entry = this.#get(list);
      while (this.#get(entry + WRITE) !== number) entry = this.#get(entry + NEXT);
      if (changed?.(sector) === false) {
        this.#pool.drop(list, entry);
        continue;
      }
      words[this.#at(sector) + NOW] = this.#get(entry + VALUE);
      words[entry + VERSION] = version;
      const state = words[entry + STATE];
      const isLost = state === (stable ? UNTOLD : LOSING);
      words[entry + STATE] = isLost ? LOST : DIRTY;
      if (stable && !isLost) this.#settle(sector, version);
    }
    this.#pool.drop(FLIGHTS, flight);
  }

  /** The newest dirty value that is not younger than `clock` becomes stable. */
  #settle(sector: number, clock: number): void {
    const { words } = this.#pool;
    const at = this.#at(sector);
    let newest = 0;
    let version = 0;
    for (let entry = this.#get(at + LIST); entry !== 0; entry = this.#get(entry + NEXT)) {
      const age = this.#get(entry + VERSION);
      if (words[entry + STATE] !== DIRTY || age > clock || age <= version) continue;
      newest = entry;
      version = age;
    }
    if (newest === 0) return;
    words[at + STABLE] = this.#get(newest + VALUE);
    for (let entry = this.#get(at + LIST); entry !== 0;) {
      const next = this.#get(entry + NEXT);
      if (!isInFlight(words[entry + STATE]) && this.#get(entry + VERSION) <= version) {
        this.#pool.drop(at + LIST, entry);
      }
      entry = next;
    }
  }

  /** What is dirty counts as clean, and so will what is in flight (I4). */
  #lose(sector: number): void {
    const { words } = this.#pool;
    let entry = this.#get(this.#at(sector) + LIST);
    for (; entry !== 0; entry = this.#get(entry + NEXT)) {
      if (words[entry + STATE] === DIRTY) words[entry + STATE] = LOST;
      else if (words[entry + STATE] === IN_FLIGHT) words[entry + STATE] = LOSING;
    }
  }

  #reset(values: readonly number[]): void {
    for (const list of [FLIGHTS, SYNCS]) {
      for (const record of this.#pool.list(list)) this.#pool.drop(list, record);
    }
    for (const [sector, value] of values.entries()) {
      const at = this.#at(sector);
      for (const entry of this.#pool.list(at + LIST)) this.#pool.drop(at + LIST, entry);
      this.#set(at + STABLE, value);
      this.#set(at + NOW, value);
    }
  }

  #at(sector: number): number {
    return HEADER + sector * SECTOR;
  }

  #get(at: number): number {
    return this.#pool.words[at] ?? 0;
  }

  #set(at: number, value: number): void {
    this.#pool.words[at] = value;
  }

  #tick(): number {
    const clock = this.#get(CLOCK) + 1;
    this.#set(CLOCK, clock);
    return clock;
  }
}
