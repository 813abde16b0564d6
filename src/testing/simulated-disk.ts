/**
 * A disk in memory for tests of programs: it takes its time, answers out of order, fails by plan,
 * and tells every state that a power cut could leave. Everything it does follows from its seed.
 *
 *   taken ──▶ in flight ──due──▶ effect, answer ──sync──▶ stable
 *                 └── stuck ──release──▶ effect, answer
 *
 * D1 Time is virtual, in whole microseconds. A command that is taken at t is due at t and its
 *    latency; commands are answered in the order of their times, and in the order of their coming
 *    where those are equal. Nothing happens between two answers.
 * D2 A command has its effect when it is answered; a power cut before may leave it, in part. What
 *    survives is up to SectorImage (its rules I1 to I7).
 * D3 Same seed, same options, same calls: the same answers at the same times, the same log.
 * D4 A disk whose power was cut or whose process was killed does nothing any more. What still uses
 *    it gets EIO, so that a test can close it: the close fails too.
 */
import { ERRNO_EIO, ERRNO_ENOSPC } from '../abi/command.ts';
import { invalid, toWhole } from '../arguments.ts';
import { type MemoryCommand, MemoryDisk, type MemoryOperation } from '../backend/memory-command.ts';
import { Random } from './random.ts';
import { enumerateCuts, sampleCut } from './simulated-disk-crash.ts';
import { type Affliction, FaultPlan } from './simulated-disk-faults.ts';
import { type SimulatedEvent, takenEvent } from './simulated-disk-log.ts';
import {
  checkShape,
  latenciesOf,
  type Latencies,
  SECTOR_BYTES,
  type SimulatedDiskOptions,
} from './simulated-disk-options.ts';
import { SectorBytes } from './simulated-disk-sectors.ts';
import { DiskSize } from './simulated-disk-size.ts';

/** What may be different after a crash; the rest is as it was, the faults included. */
export type RestartOptions = Partial<Omit<SimulatedDiskOptions, 'sizeBytes' | 'contents'>>;

/** One of the states that a power cut may leave. */
export interface CrashState {
  /** How it came about: a phrase for a person. */
  readonly name: string;
  /** What the disk holds. */
  contents(): Uint8Array;
  /** Equal for equal contents. @internal */
  fingerprint(): string;
  /** A disk that holds it, at time 0, with nothing in flight. */
  restart(changes?: RestartOptions): SimulatedDisk;
}

interface InFlight {
  readonly command: MemoryCommand;
  readonly refusal: number;
  readonly affliction: Affliction;
  /** Infinity when it is stuck. */
  readonly due: number;
}

/** Runs `callback` after the callbacks of this turn of the event loop. */
const later: (callback: () => void) => void =
  typeof setImmediate === 'function' ? setImmediate : (callback) => setTimeout(callback, 0);

const DEFAULT_STATES = 256;
const MOST_STATES = 2 ** 31;
const WRITES: readonly MemoryOperation[] = ['write', 'writeZeroes', 'discard'];

/**
 * A simulated disk. With its automatic clock it is a backend like any other:
 *
 * ```ts
 * const backend = new SimulatedDisk({ sizeBytes: 1 << 20, seed: 7 });
 * const disk = new Disk(backend);
 * await disk.write(0, bytes);
 * await disk.flush();
 * await disk.write(0, others);              // not flushed
 * for (const state of backend.crashStates()) {
 *   state.contents();                       // at 0: bytes, others, or a sector of each ...
 * }
 * const rebooted = new Disk(backend.cutPower());
 * ```
 *
 * With `clock: 'manual'` the test says when time goes on, and can look in between:
 *
 * ```ts
 * const done = disk.write(0, bytes);
 * await Promise.resolve(); // calls of one turn reach the disk together, at its end
 * while (backend.step() !== undefined) check([...backend.crashStates()]);
 * await done;
 * ```
 */
export class SimulatedDisk extends MemoryDisk {
  /** What came in, what was answered, when, and what went wrong: JSON, the same for a seed (D3). */
  readonly log: SimulatedEvent[] = [];

  readonly #options: SimulatedDiskOptions;
  readonly #torn: boolean;
  readonly #automatic: boolean;
  readonly #latencies: Latencies;
  readonly #faults: FaultPlan;
  /** For latencies; for what an error leaves; for crashes. */
  readonly #times: Random;
  readonly #damage: Random;
  readonly #crashes: Random;
  readonly #mostBytes: number;
  #sectors: SectorBytes;
  #size: DiskSize;
  /** In the order in which they are answered, the stuck ones last. */
  readonly #inFlight: InFlight[] = [];
  #now = 0;
  #armed = false;
  #dead = false;

  /** @throws {SluiceError} ERR_SLUICE_INVALID_ARGUMENT */
  constructor(options: SimulatedDiskOptions) {
    checkShape(options);
    super({ ...options, blockSizeBytes: options.blockSizeBytes ?? SECTOR_BYTES });
    const { seed, clock = 'automatic', contents } = options;
    if (clock !== 'automatic' && clock !== 'manual') {
      throw invalid(`clock must be automatic or manual, not ${String(clock)}`);
    }
    this.#options = options;
    this.#automatic = clock === 'automatic';
    this.#torn = options.torn ?? true;
    this.#latencies = latenciesOf(options.latency);
    this.#faults = new FaultPlan(options.faults ?? {}, seed);
    this.#times = new Random(seed);
    this.#damage = new Random(seed + 1);
    this.#crashes = new Random(seed + 2);
    this.#mostBytes = options.mostBytes ?? this.sizeBytes;
    this.#sectors = SectorBytes.holding(this.#mostBytes, contents ?? new Uint8Array(0), seed);
    this.#size = new DiskSize(this.sizeBytes, this.blockSizeBytes);
  }

  /** Microseconds since the disk was made. */
  get now(): number {
    return this.#now;
  }

  /** Commands without an answer, in the order in which they will be answered, stuck ones last. */
  get inFlight(): readonly MemoryCommand[] {
    return this.#inFlight.map(({ command }) => command);
  }

  /** Commands that wait for release(). */
  get stuck(): readonly MemoryCommand[] {
    return this.#inFlight.filter(({ due }) => due === Infinity).map(({ command }) => command);
  }

  /** What a read of the whole disk would see: a copy. */
  contents(): Uint8Array {
    return this.#sectors.read(0, this.sizeBytes);
  }

  /** Goes on to the next answer and gives it; undefined when nothing but stuck ones is left. */
  step(): MemoryCommand | undefined {
    const [next] = this.#inFlight;
    if (next === undefined || next.due === Infinity) return undefined;
    this.#inFlight.shift();
    this.#now = next.due;
    this.#answer(next);
    return next.command;
  }

  /** Steps until nothing but stuck commands is in flight; also through what comes in meanwhile. */
  run(): void {
    while (this.step() !== undefined);
  }

  /** Gives every answer up to this time; then it is this time. */
  runUntil(micros: number): void {
    toWhole(micros, 'the time in microseconds', this.#now, Number.MAX_SAFE_INTEGER);
    for (let [next] = this.#inFlight; next !== undefined && next.due <= micros;) {
      this.step();
      [next] = this.#inFlight;
    }
    this.#now = micros;
  }

  /** Answers a stuck command now: the one that came first, or the one with this id. */
  release(id?: number): MemoryCommand {
    const index = this.#inFlight.findIndex(
      ({ command, due }) => due === Infinity && (id === undefined || command.id === id),
    );
    const [found] = index < 0 ? [] : this.#inFlight.splice(index, 1);
    if (found === undefined) {
      throw invalid(`there is no stuck command${id === undefined ? '' : ` with id ${id}`}`);
    }
    this.#answer(found);
    return found.command;
  }

  /**
   * The host loses power: a new disk with one of the states that this may leave, chosen by the
   * seed. This one is dead from now on (D4).
   */
  cutPower(changes: RestartOptions = {}): SimulatedDisk {
    this.#checkAlive();
    const { name, values } = sampleCut(this.#sectors.image, this.#crashes.next(), this.#torn);
    const sizes = this.#size.survivors();
    const index = sizes.length > 1 ? this.#crashes.below(sizes.length) : 0;
    const contents = this.#sectors.contentsAfter(values, sizes[index] ?? sizes[0]);
    this.#die({ event: 'power cut', left: name });
    return this.#restart(contents, changes);
  }

  /**
   * The states that a power cut now could leave, each once; the disk itself goes on unharmed.
   * Where they are more than `limit` (default 256), the telling ones come first, then samples by
   * seed. The generator returns true when these were all.
   */
  crashStates(options: { readonly limit?: number } = {}): Generator<CrashState, boolean, void> {
    this.#checkAlive();
    const limit = toWhole(options.limit ?? DEFAULT_STATES, 'limit', 1, MOST_STATES);
    return this.#statesOf(this.#sectors.clone(), this.#size.survivors(), limit);
  }

  /**
   * The process is killed and the host lives on: a new disk where everything that was answered is
   * still there, volatile or not, and what was in flight has happened or not, by seed. This one is
   * dead from now on (D4).
   */
  killProcess(changes: RestartOptions = {}): SimulatedDisk {
    this.#checkAlive();
    const whole = new Map<number, boolean>();
    const size = this.#size.killed(() => this.#crashes.chance(0.5));
    const next = this.#restart(new Uint8Array(size.now), changes);
    next.#size = size;
    next.#sectors = this.#sectors.clone();
    next.#sectors.image.kill((id) => {
      if (this.#torn) return this.#crashes.chance(0.5);
      const happened = whole.get(id) ?? this.#crashes.chance(0.5);
      whole.set(id, happened);
      return happened;
    });
    this.#die({ event: 'process killed' });
    return next;
  }

  protected override accept(command: MemoryCommand): void {
    if (this.#dead) return this.#bury([command]);
    this.noteConflicts(command, this.inFlight);
    const refusal = this.refusalOf(command);
    const affliction = this.#faults.afflict(command);
    const [least, most] = this.#latencies[command.stable ? 'stableWrite' : command.op];
    const micros = least + this.#times.below(most - least + 1) + affliction.extraMicros;
    const due = affliction.stuck ? Infinity : this.#now + micros;
    const flight: InFlight = { command, refusal, affliction, due };
    if (refusal === 0) this.#begin(flight);
    // Behind everything that is due at the same time.
    const place = this.#inFlight.findIndex((other) => other.due > due);
    this.#inFlight.splice(place < 0 ? this.#inFlight.length : place, 0, flight);
    this.log.push(takenEvent(this.#now, command, affliction, due));
    this.#arm();
  }

  protected override refusalOf(command: MemoryCommand): number {
    const isFull = command.op === 'extend' && command.length > this.#mostBytes;
    return super.refusalOf(command) || (isFull ? ERRNO_ENOSPC : 0);
  }

  /** The disk has it: from now on a power cut may leave it. */
  #begin({ command, affliction }: InFlight): void {
    const { id, op, offset, length } = command;
    const sectors = this.#sectors;
    if (op === 'write') {
      const bytes = new Uint8Array(length);
      this.gather(command, bytes);
      sectors.beginWrite(id, offset, bytes);
    } else if (op === 'writeZeroes') sectors.beginZeroes(id, offset, length);
    else if (op === 'discard') sectors.beginDiscard(id, offset, length);
    else if (op === 'extend') this.#size.beginExtend(id, length);
    else if (op === 'sync' && affliction.answer !== 'lyingSync') {
      sectors.image.beginSync(id);
      this.#size.beginSync(id);
    }
  }

  #answer(flight: InFlight): void {
    const { command, refusal, affliction } = flight;
    const { id, op } = command;
    const errno = refusal === 0 ? errnoOf(affliction) : refusal;
    if (refusal === 0) this.#end(flight, errno);
    const value = errno === 0 ? this.#look(command) : 0;
    this.log.push({ at: this.#now, event: 'answered', id, op, errno });
    try {
      this.done(id, errno, value);
    } finally {
      this.#arm();
    }
  }

  /** The effect on the disk. */
  #end({ command, affliction }: InFlight, errno: number): void {
    const { id, op, stable } = command;
    const { image } = this.#sectors;
    const lies = affliction.answer === 'lyingSync';
    if (op === 'sync') {
      if (lies) return;
      image.endSync(id, errno === 0);
      this.#size.endSync(id, errno === 0);
      return;
    }
    if (op === 'extend') {
      this.#size.endExtend(id, errno === 0);
      this.sizeBytes = this.#size.now;
    }
    if (!WRITES.includes(op)) return;
    if (errno === 0) {
      image.completeWrite(id, stable && !lies);
      if (stable && !lies) this.#size.settle();
    } else {
      image.failWrite(id, this.#damageOf(command, affliction));
      if (stable) image.hideLosses();
    }
  }

  /** Which sectors a failed write has changed. */
  #damageOf(
    { offset, length }: MemoryCommand,
    { answer }: Affliction,
  ): (sector: number) => boolean {
    const first = Math.floor(offset / SECTOR_BYTES);
    const sectors = Math.ceil((offset + length) / SECTOR_BYTES) - first;
    if (answer === 'enospc') return () => false;
    if (answer === 'shortWrites') {
      const reached = first + this.#damage.below(sectors);
      return (sector) => sector < reached;
    }
    if (this.#torn) return () => this.#damage.chance(0.5);
    const happened = this.#damage.chance(0.5);
    return () => happened;
  }

  /** The read side of a command; answers its value. */
  #look(command: MemoryCommand): number {
    const { op, offset, length } = command;
    if (op === 'read') this.scatter(command, this.#sectors.read(offset, length));
    if (op !== 'blockStatus') return 0;
    return this.writeStatus(command, (offset, length) => this.#sectors.read(offset, length));
  }

  /** Automatic: one answer in a turn, so that what waits for it comes in before the next. */
  #arm(): void {
    if (!this.#automatic || this.#armed || (this.#inFlight[0]?.due ?? Infinity) === Infinity)
      return;
    this.#armed = true;
    later(() => {
      this.#armed = false;
      this.step();
    });
  }

  *#statesOf(
    sectors: SectorBytes,
    sizes: readonly number[],
    limit: number,
  ): Generator<CrashState, boolean, void> {
    const cuts = enumerateCuts(sectors.image, sizes, limit, this.#options.seed, this.#torn);
    for (;;) {
      const { done, value } = cuts.next();
      if (done === true) return value;
      const contents = (): Uint8Array => sectors.contentsAfter(value.values, value.sizeBytes);
      const fingerprint = (): string => sectors.fingerprintAfter(value.values, value.sizeBytes);
      const restart = (changes: RestartOptions = {}): SimulatedDisk =>
        this.#restart(contents(), changes);
      yield { name: value.name, contents, fingerprint, restart };
    }
  }

  #restart(contents: Uint8Array, changes: RestartOptions): SimulatedDisk {
    const mostBytes = this.#mostBytes;
    const sizeBytes = contents.length;
    return new SimulatedDisk({ ...this.#options, mostBytes, ...changes, sizeBytes, contents });
  }

  #die(event: Pick<SimulatedEvent, 'event' | 'left'>): void {
    this.log.push({ at: this.#now, id: 0, ...event });
    this.#dead = true;
    this.#bury(this.#inFlight.splice(0).map(({ command }) => command));
  }

  /** Fails what a dead disk will not do (D4). */
  #bury(commands: readonly MemoryCommand[]): void {
    later(() => {
      for (const { id } of commands) this.done(id, ERRNO_EIO, 0);
    });
  }

  #checkAlive(): void {
    if (this.#dead) throw invalid('this disk has crashed; use the one that the crash returned');
  }
}

function errnoOf({ answer }: Affliction): number {
  if (answer === undefined || answer === 'lyingSync') return 0;
  return answer === 'enospc' ? ERRNO_ENOSPC : ERRNO_EIO;
}
