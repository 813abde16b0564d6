/**
 * The order in which streams are explored, and what one of them costs. See explore.ts.
 *
 * A small budget has to see a good part of everything, so streams go from short to long and each
 * goes through all configurations before the next: first those of one request, then the classics
 * (plan.ts), then those of two with random ones in between, then random ones. A short stream is
 * explored in every order of its events; one that has too many is sampled, with more faults in one
 * run than an exhaustive search could afford.
 */
import { invalid, toSwitch, toWhole } from '../arguments.ts';
import { inlinedModule, missingExports } from '../engine.ts';
import {
  DEFAULT_EXHAUSTIVE_REQUESTS,
  DEFAULT_REQUESTS,
  DEFAULT_STATES,
  type ExploreFailure,
  type ExploreOptions,
  type ExploreProgress,
  type ExploreResult,
  type FaultName,
  FAULTS,
} from './explore-types.ts';
import { ForkMiss, Lane, LANE_REQUESTS } from './lane.ts';
import { alphabetOf, CLASSICS, randomSetup, randomStream, SETUPS, takes } from './plan.ts';
import { Random } from './random.ts';
import { type Finding, Search, type Tally } from './search.ts';
import type { RuleBroken } from './rule-broken.ts';
import { type Case, Shrinker } from './shrink.ts';
import { describeRequest, describeSetup, type EngineSetup, type GuestRequest } from './stream.ts';
import { retell } from './timeline.ts';
import { World } from './world.ts';

/** A stream in a configuration, and what may be spent on it. */
interface Job {
  readonly setup: EngineSetup;
  readonly stream: readonly GuestRequest[];
  /** Crash states of a search through all orders. */
  readonly states: number;
  /** Samples when those were not all. */
  readonly samples: number;
  readonly phase: string;
}

const NOTHING: Tally = { states: 0, survivors: 0, kills: 0, steps: 0 };
/** Faults on one path of a search through all orders, and of a sample. */
const FAULTS_IN_ALL = 1;
const FAULTS_IN_SAMPLE = 2;
/** Samples that a new kind of stream begins with, to learn what it touches. */
const LESSONS = 4;
/** How often a job is tried when what it finds does not happen without forks. */
const ATTEMPTS = 3;
/** Streams of two requests for each random one. */
const PAIRS_PER_RANDOM = 4;
/** Has no divisor in common with the size of an alphabet, so that every stream has its turn. */
const STRIDE = 37;
/** Milliseconds between two reports. */
const REPORT_MS = 50;

/** See explore.ts. */
export function* exploration(options: ExploreOptions): Generator<ExploreProgress, ExploreResult> {
  const explorer = new Explorer(options);
  return yield* explorer.run();
}

class Explorer {
  readonly #options: ExploreOptions;
  readonly #lane: Lane;
  readonly #random: Random;
  /** Where the orders of samples come from. */
  readonly #orders: Random;
  readonly #faults: ReadonlySet<FaultName>;
  readonly #states: number;
  readonly #tally: Tally = { states: 0, survivors: 0, kills: 0, steps: 0 };
  readonly #learnt = new Set<string>();
  #streams = 0;
  #phase = '';

  constructor(options: ExploreOptions) {
    const { seed = 1, states = DEFAULT_STATES } = options;
    toWhole(seed, 'seed', 0, Number.MAX_SAFE_INTEGER);
    toWhole(states, 'states', 1, Number.MAX_SAFE_INTEGER);
    toWhole(options.requests ?? DEFAULT_REQUESTS, 'requests', 1, LANE_REQUESTS);
    toWhole(options.exhaustiveRequests ?? 1, 'exhaustiveRequests', 1, LANE_REQUESTS);
    toSwitch(options.exhaustive, 'exhaustive');
    checkFaults(options.faults ?? []);
    checkModule(options.module);
    this.#options = options;
    this.#states = states;
    this.#random = new Random(seed);
    this.#orders = new Random(seed);
    this.#faults = new Set(options.faults ?? FAULTS);
    this.#lane = new Lane(options.module ?? inlinedModule());
  }

  *run(): Generator<ExploreProgress, ExploreResult> {
    const started = performance.now();
    const seconds = (): number => (performance.now() - started) / 1000;
    let reported = started;
    for (const job of this.#jobs()) {
      if (this.#tally.states >= this.#states || this.#options.signal?.aborted === true) break;
      this.#phase = job.phase;
      const failing = this.#explore(job);
      if (failing !== undefined) {
        const failure = this.#describe(failing);
        return { ...this.#progress(), seconds: seconds(), failure };
      }
      if (performance.now() - reported < REPORT_MS) continue;
      yield this.#progress();
      reported = performance.now();
    }
    return { ...this.#progress(), seconds: seconds() };
  }

  #progress(): ExploreProgress {
    return { ...this.#tally, streams: this.#streams, phase: this.#phase };
  }

  /** One job, until its forks were exact. */
  #explore(job: Job): Case | undefined {
    this.#learn(job);
    for (let attempt = 1; ; attempt++) {
      const tally: Tally = { states: 0, survivors: 0, kills: 0, steps: 0 };
      const finding = this.#patiently(() => this.#search(job, tally));
      if (finding !== undefined && this.#retell({ ...job, finding }) === undefined) {
        // The forks were at fault: the next attempt looks at every step.
        if (attempt === ATTEMPTS) throw new Error(`unrepeatable: ${finding.broken.message}`);
        this.#lane.learning = true;
        continue;
      }
      this.#lane.learning = false;
      this.#tally.states += tally.states;
      this.#tally.survivors += tally.survivors;
      this.#tally.kills += tally.kills;
      this.#tally.steps += tally.steps;
      this.#streams += 1;
      return finding === undefined ? undefined : { ...job, finding };
    }
  }

  /**
   * What a stream of this kind touches in the engine's region (lane.ts). A finding does not count
   * here: it is found again.
   */
  #learn(job: Job): void {
    const { files, depth, deadline, barrier, flushWait, wce, fua } = job.setup;
    const merges = job.setup.mergeBytes > 0;
    const features = [
      job.stream.length,
      files,
      depth,
      deadline,
      barrier,
      flushWait,
      wce,
      fua,
      merges,
    ];
    const kind = features.join();
    if (this.#learnt.has(kind)) return;
    this.#learnt.add(kind);
    const lane = this.#lane;
    lane.learning = true;
    // Twice as many requests, all of them open at first: no order of events needs more room.
    const stream = [...job.stream, ...job.stream].slice(0, LANE_REQUESTS);
    for (let seed = 1; seed <= LESSONS; seed++) {
      this.#patiently(() => {
        const search = new Search(this.#world({ ...job, stream }, 0), { ...NOTHING });
        search.sample(new Random(seed), seed % 2, seed <= 2);
      });
    }
    lane.learning = false;
  }

  #search(job: Job, tally: Tally): Finding | undefined {
    Object.assign(tally, NOTHING);
    const left = Math.min(job.states, this.#states - this.#tally.states);
    const search = new Search(this.#world(job, FAULTS_IN_ALL), tally);
    const { finding, complete } = search.all(left);
    this.#lane.check();
    if (finding !== undefined || complete) return finding;
    const orders = new Random(this.#orders.next());
    for (let sample = 0; sample < job.samples; sample++) {
      if (tally.states + this.#tally.states >= this.#states) return undefined;
      const found = search.sample(orders, sample % 2 === 0 ? 0 : FAULTS_IN_SAMPLE);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #world({ setup, stream }: Omit<Case, 'finding'>, faults: number): World {
    return new World(this.#lane, setup, stream, this.#faults, faults);
  }

  #retell(failing: Case): { broken: RuleBroken; timeline: string } | undefined {
    const world = this.#world(failing, FAULTS_IN_SAMPLE);
    const told = retell(world, failing.finding);
    return told?.broken.rule === failing.finding.broken.rule ? told : undefined;
  }

  #describe(failing: Case): ExploreFailure {
    const shortest = this.#options.shrink === false ? failing : this.#shrink(failing);
    const told = this.#retell(shortest) ?? this.#retell(failing);
    const { setup, stream } = shortest;
    const { rule, message } = told?.broken ?? failing.finding.broken;
    const config = describeSetup(setup);
    const timeline = told?.timeline ?? '';
    return { rule, message, stream: stream.map(describeRequest), config, timeline };
  }

  #shrink(failing: Case): Case {
    const shrinker = new Shrinker(this.#lane, this.#faults, FAULTS_IN_SAMPLE);
    return this.#patiently(() => shrinker.shrink(failing));
  }

  /** Until the forks are exact: each miss makes them larger. */
  #patiently<T>(work: () => T): T {
    for (;;) {
      try {
        return work();
      } catch (error) {
        if (!(error instanceof ForkMiss)) throw error;
      }
    }
  }

  *#jobs(): Generator<Job> {
    if (this.#options.exhaustive === true) {
      const most = this.#options.exhaustiveRequests ?? DEFAULT_EXHAUSTIVE_REQUESTS;
      for (let requests = 1; requests <= most; requests++) {
        yield* jobsOf(streamsOf(requests), Infinity, 0, `every stream of ${requests}`);
      }
    } else {
      yield* jobsOf(streamsOf(1), 1000, 0, 'every stream of 1');
      yield* jobsOf(CLASSICS, 500, 30, 'classics');
      const random = this.#randomJobs();
      let jobs = 0;
      for (const job of jobsOf(streamsOf(2), 1000, 0, 'every stream of 2')) {
        yield job;
        if (++jobs % PAIRS_PER_RANDOM === 0) yield random.next().value;
      }
    }
    yield* this.#randomJobs();
  }

  *#randomJobs(): Generator<Job, never> {
    const longest = this.#options.requests ?? DEFAULT_REQUESTS;
    for (;;) {
      const random = this.#random;
      const setup = randomSetup(random);
      const requests = Math.min(longest, 3 + random.below(longest));
      const stream = randomStream(random, setup, requests);
      yield { setup, stream, states: 300, samples: 40, phase: 'random streams' };
    }
  }
}

function checkFaults(faults: readonly FaultName[]): void {
  const unknown = Array.isArray(faults) ? faults.find((name) => !FAULTS.includes(name)) : faults;
  if (unknown === undefined) return;
  throw invalid(`faults must be a list of ${FAULTS.join(', ')}, not ${JSON.stringify(unknown)}`);
}

function checkModule(module: WebAssembly.Module | undefined): void {
  if (module === undefined) return;
  if (!(module instanceof WebAssembly.Module)) throw invalid('module must be a WebAssembly.Module');
  const [missing] = missingExports(module);
  if (missing !== undefined)
    throw invalid(`module is not an engine: it does not export ${missing}`);
}

/** Every stream of so many requests, neighbours in the order far apart in the alphabet. */
function* streamsOf(requests: number): Generator<readonly GuestRequest[]> {
  const letters = alphabetOf(requests);
  const total = letters.length ** requests;
  for (let index = 0; index < total; index++) {
    const stream: GuestRequest[] = [];
    for (let rest = (index * STRIDE) % total, at = 0; at < requests; at++) {
      const request = letters[rest % letters.length];
      if (request !== undefined) stream.push(request);
      rest = Math.floor(rest / letters.length);
    }
    yield stream;
  }
}

/** Each stream in each configuration that takes it. */
function* jobsOf(
  streams: Iterable<readonly GuestRequest[]>,
  states: number,
  samples: number,
  phase: string,
): Generator<Job> {
  for (const stream of streams) {
    for (const setup of SETUPS) {
      if (!stream.every((request) => takes(setup, request))) continue;
      yield { setup, stream, states, samples, phase };
    }
  }
}
