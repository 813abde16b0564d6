/**
 * The loop: an input that is worth it is changed, run on the coverage build, and kept when it
 * reaches a point more or less often than any before it. scripts/fuzz.mjs is its command line.
 */

import { Random } from '../engine/random.ts';
import { ACTION_BYTES, ACTIONS_MAX, actionCount, HEADER_BYTES } from './input.ts';
import { mutate, randomInput, splice } from './mutate.ts';
import {
  BUCKETS,
  type Instrumented,
  loadPoints,
  openCoverageBuild,
  readFeatures,
} from './points.ts';
import { ENGINE, type Runner, type Subject } from './subject.ts';

export { CORPUS_FOLDER, loadInputs, nameOf, saveInputs } from './corpus.ts';
export { SUBJECTS } from './subject.ts';
export { toLine } from './input.ts';

/** An input that breaks a rule. */
export interface Failure {
  readonly message: string;
  readonly bytes: Uint8Array;
}

/** What a fuzzer has done. */
export interface Progress {
  readonly execs: number;
  readonly pumps: number;
  readonly inputs: number;
  readonly features: number;
  readonly points: number;
}

interface Entry {
  readonly bytes: Uint8Array;
  readonly features: Uint32Array;
  /** What a run costs: pumps, and requests with each other. */
  readonly cost: number;
}

/** Changes of one input before another one is picked. */
const TRIES = 32;
/** Runs after which the weights of the inputs are summed up anew. */
const WEIGH_EVERY = 1024;
/** What a run may cost before another input that does the same is better. */
const CHEAP = 128;
/** For the watcher: the number of the run, the length of its input, the input. */
export const WATCH_BYTES = 8 + 2 * (HEADER_BYTES + ACTIONS_MAX * ACTION_BYTES);
/** Pumps after which what is left of an input is short enough. */
const CUT_PUMPS = 10_000;
/** Inputs from nothing, before there is anything to change and from time to time. */
const FRESH_ONE_IN = 64;

/** See the head of the file. The same seed and corpus do the same things in the same order. */
export class Fuzzer {
  readonly failures: Failure[] = [];
  execs = 0;
  readonly #random: Random;
  readonly #build: Instrumented;
  readonly #subject: Subject;
  readonly #host: Runner;
  /** 1 for the points whose features count. */
  readonly #counted: Uint8Array;
  readonly #points: number;
  readonly #entries: Entry[] = [];
  /** By feature: 1 when reached, and in how many runs. */
  readonly #seen: Uint8Array;
  readonly #runs: Float64Array;
  readonly #found: Uint32Array;
  #foundCount = 0;
  #features = 0;
  /** Sums of the weights of the inputs before each. */
  #weights: number[] = [];
  #weightsAt = 0;
  /** The input that runs, for whoever watches from another thread: WATCH_BYTES in all. */
  readonly #watched: Uint8Array | undefined;

  constructor(seed: number, subject: Subject = ENGINE, watched?: Uint8Array) {
    const points = loadPoints();
    this.#random = new Random(seed);
    this.#points = points.length;
    this.#subject = subject;
    this.#build = openCoverageBuild(points, subject.createMemory());
    this.#host = subject.createRunner(this.#build.exports, this.#build.memory);
    this.#counted = Uint8Array.from(points, ({ file }) => Number(subject.counts(file)));
    this.#seen = new Uint8Array((points.length + 4) * BUCKETS);
    this.#runs = new Float64Array(this.#seen.length);
    this.#found = new Uint32Array(points.length + 4);
    this.#watched = watched;
  }

  /** How far it is. */
  progress(): Progress {
    let points = 0;
    for (let point = 0; point < this.#points; point++) {
      const at = point * BUCKETS;
      points += Number(this.#seen.subarray(at, at + BUCKETS).includes(1));
    }
    const { execs } = this;
    const inputs = this.#entries.length;
    return { execs, pumps: this.#host.pumps, inputs, features: this.#features, points };
  }

  /** The inputs that are kept. */
  inputs(): Uint8Array[] {
    return this.#entries.map(({ bytes }) => bytes);
  }

  /** Takes inputs of earlier runs; those that reach nothing new are left out. */
  load(inputs: readonly Uint8Array[]): void {
    for (const bytes of inputs) this.#consider(bytes, false);
  }

  /** Runs for about `milliseconds`, or until there are `failures`. */
  fuzz(milliseconds: number, failures: number): void {
    const end = Date.now() + milliseconds;
    while (Date.now() < end && this.failures.length < failures) this.round();
  }

  /** One input and some of its changes. */
  round(): void {
    const random = this.#random;
    const { grammar } = this.#subject;
    const entry = this.#entries.length === 0 ? undefined : this.#pick();
    // What costs much is tried less often: runs a second are what finds things.
    const tries = Math.ceil(TRIES / (1 + (entry?.cost ?? 0) / 256));
    for (let left = tries; left > 0; left--) {
      const fresh = entry === undefined || random.below(FRESH_ONE_IN) === 0;
      const other = fresh ? undefined : this.#pick();
      this.#consider(
        other === undefined || entry === undefined
          ? randomInput(random, grammar)
          : mutate(random, entry.bytes, other.bytes, grammar),
        true,
      );
    }
  }

  /** Runs an input and keeps it when it reaches something new. */
  #consider(bytes: Uint8Array, trims: boolean): void {
    const failure = this.#run(bytes);
    if (failure !== undefined) {
      this.#fail(bytes, failure);
      return;
    }
    const fresh: number[] = [];
    for (let index = 0; index < this.#foundCount; index++) {
      const feature = this.#found[index]!;
      this.#runs[feature]! += 1;
      if (this.#seen[feature] === 0) fresh.push(feature);
    }
    if (fresh.length > 0) this.#keep(trims ? this.#trim(bytes, fresh) : bytes);
  }

  #keep(bytes: Uint8Array): void {
    const before = this.#host.pumps;
    this.#run(bytes);
    const { submitted } = this.#host;
    const cost = this.#host.pumps - before + submitted + submitted ** 2 / 32;
    const features = this.#found.slice(0, this.#foundCount);
    for (const feature of features) {
      this.#features += Number(this.#seen[feature] === 0);
      this.#seen[feature] = 1;
    }
    this.#entries.push({ bytes, features, cost });
  }

  /** What goes wrong, or nothing; afterwards #found says what was reached. */
  #run(bytes: Uint8Array): string | undefined {
    this.execs += 1;
    if (this.#watched !== undefined) {
      const view = new DataView(this.#watched.buffer);
      view.setUint32(0, this.execs, true);
      view.setUint32(4, bytes.length, true);
      this.#watched.set(bytes, 8);
    }
    this.#build.counters.fill(0);
    try {
      this.#host.run(bytes);
    } catch (error) {
      return nameFailure(error);
    }
    this.#foundCount = readFeatures(this.#build.counters, this.#counted, this.#found);
    return undefined;
  }

  /** A part of an input that still does what `keeps` looks at: large parts are cut out first. */
  #cut(bytes: Uint8Array, keeps: (bytes: Uint8Array) => boolean): Uint8Array {
    let kept: Uint8Array = bytes.slice(0, HEADER_BYTES + ACTIONS_MAX * ACTION_BYTES);
    const enough = this.#host.pumps + CUT_PUMPS;
    for (let size = actionCount(kept); size >= 1; size = Math.floor(size / 2)) {
      for (let at = actionCount(kept) - size; at >= 0; at -= size) {
        if (this.#host.pumps > enough) return kept;
        const shorter = splice(kept, at, size, []);
        if (keeps(shorter)) kept = shorter;
      }
    }
    for (let at = 0; at < kept.length; at++) {
      if (kept[at] === 0 || this.#host.pumps > enough) continue;
      const simpler = Uint8Array.from(kept);
      simpler[at] = 0;
      if (keeps(simpler)) kept = simpler;
    }
    return kept;
  }

  #trim(bytes: Uint8Array, features: readonly number[]): Uint8Array {
    return this.#cut(bytes, (shorter) => {
      if (this.#run(shorter) !== undefined) return false;
      const found = new Set(this.#found.subarray(0, this.#foundCount));
      return features.every((feature) => found.has(feature));
    });
  }

  /** Keeps one input for each kind of failure, shrunk. */
  #fail(bytes: Uint8Array, message: string): void {
    const kind = kindOfFailure(message);
    if (this.failures.some((other) => kindOfFailure(other.message) === kind)) return;
    const shrunk = this.#cut(bytes, (shorter) => {
      const failure = this.#run(shorter);
      return failure !== undefined && kindOfFailure(failure) === kind;
    });
    this.failures.push({ message: this.#run(shrunk) ?? message, bytes: shrunk });
  }

  /** An input, the more likely the rarer what it reaches and the cheaper it is. */
  #pick(): Entry {
    if (this.execs >= this.#weightsAt) this.#weigh();
    const total = this.#weights.at(-1) ?? 0;
    const ticket = (this.#random.below(0x1000_0000) / 0x1000_0000) * total;
    let low = 0;
    let high = this.#weights.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#weights[middle]! > ticket) high = middle;
      else low = middle + 1;
    }
    return this.#entries[low]!;
  }

  #weigh(): void {
    let total = 0;
    this.#weights = this.#entries.map(({ features, cost }) => {
      let rarity = 0;
      for (const feature of features) rarity += 1 / (1 + this.#runs[feature]!);
      total += (0.001 + rarity) / (16 + cost);
      return total;
    });
    this.#weightsAt = this.execs + WEIGH_EVERY;
  }

  /**
   * The smallest set that greed finds: the input with most features that no other one has brought
   * yet, for what it costs, until there are none; then what the others have made superfluous goes,
   * and each is trimmed to what it alone brings.
   */
  minimize(): Uint8Array[] {
    const owners = new Map<number, number>();
    const chosen = this.#chooseGreedily();
    for (const { features } of chosen) {
      for (const feature of features) owners.set(feature, (owners.get(feature) ?? 0) + 1);
    }
    const needed = chosen.toReversed().filter(({ features }) => {
      if (features.some((feature) => owners.get(feature) === 1)) return true;
      for (const feature of features) owners.set(feature, owners.get(feature)! - 1);
      return false;
    });
    return needed.map(({ bytes, features }) => {
      const own = [...features].filter((feature) => owners.get(feature) === 1);
      const trimmed = this.#trim(bytes, own);
      this.#run(trimmed);
      const kept = new Set(this.#found.subarray(0, this.#foundCount));
      for (const feature of features) {
        if (!kept.has(feature)) owners.set(feature, owners.get(feature)! - 1);
      }
      return trimmed;
    });
  }

  #chooseGreedily(): Entry[] {
    const covered = new Uint8Array(this.#seen.length);
    const chosen: Entry[] = [];
    let left = [...this.#entries];
    for (;;) {
      const scored = left.map((entry) => {
        let fresh = 0;
        for (const feature of entry.features) fresh += Number(covered[feature] === 0);
        return { entry, worth: fresh / (CHEAP + entry.cost) };
      });
      const useful = scored.filter(({ worth }) => worth > 0);
      const first = useful[0];
      if (first === undefined) return chosen;
      let best = first;
      for (const next of useful) {
        const isShorter = next.entry.bytes.length < best.entry.bytes.length;
        if (next.worth > best.worth || (next.worth === best.worth && isShorter)) best = next;
      }
      chosen.push(best.entry);
      for (const feature of best.entry.features) covered[feature] = 1;
      left = useful.filter(({ entry }) => entry !== best.entry).map(({ entry }) => entry);
    }
  }
}

/** What happened; for a trap, where in the engine too. */
function nameFailure(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const what = `${error.name}: ${error.message}`;
  if (!(error instanceof WebAssembly.RuntimeError)) return what;
  const frames = (error.stack ?? '').matchAll(/ at (assembly\/[^ ]+)/g);
  return `${what}: ${Array.from(frames, ([, place]) => place)
    .slice(0, 4)
    .join(' < ')}`;
}

/** Failures with the same words and other numbers are one. */
function kindOfFailure(message: string): string {
  return message.replaceAll(/\d+/g, 'N');
}
