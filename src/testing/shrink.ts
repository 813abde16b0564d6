/**
 * From a failure to the shortest one like it: fewer requests, a plainer configuration, plainer
 * requests, then fewer events. A candidate counts when the same rule breaks in some order of its
 * events; it is searched for anew each time, so nothing depends on the events of the longer one.
 */
import { REQUEST_BARRIER, REQUEST_FUA } from '../abi/request.ts';
import type { FaultName } from './explore-types.ts';
import type { Lane } from './lane.ts';
import { Random } from './random.ts';
import { type Finding, Search } from './search.ts';
import { type EngineSetup, type GuestRequest, hasRange, isBarrier, PLAIN_SETUP } from './stream.ts';
import { World } from './world.ts';

/** A failing case. */
export interface Case {
  readonly setup: EngineSetup;
  readonly stream: readonly GuestRequest[];
  readonly finding: Finding;
}

/** Crash states that one candidate may cost, and samples when these were not all. */
const STATES = 20_000;
const SAMPLES = 300;
/** What all candidates together may cost, in crash states. */
const BUDGET = 500_000;

/** See the head of the file. */
export class Shrinker {
  readonly #lane: Lane;
  readonly #faults: ReadonlySet<FaultName>;
  readonly #faultsLeft: number;
  readonly #tally = { states: 0, survivors: 0, kills: 0, steps: 0 };

  /** @param faultsLeft how many commands may fail on one path */
  constructor(lane: Lane, faults: ReadonlySet<FaultName>, faultsLeft: number) {
    this.#lane = lane;
    this.#faults = faults;
    this.#faultsLeft = faultsLeft;
  }

  /** The shortest case that was found. */
  shrink(failing: Case): Case {
    let best = failing;
    for (let better: Case | undefined = best; better !== undefined;) {
      better = this.#firstOf(simpler(best), best.finding.broken.rule);
      if (better !== undefined) best = better;
    }
    return this.#withFewestEvents(best);
  }

  #firstOf(candidates: Iterable<Omit<Case, 'finding'>>, rule: string): Case | undefined {
    for (const { setup, stream } of candidates) {
      if (this.#tally.states > BUDGET) return undefined;
      const finding = this.#search(setup, stream, rule);
      if (finding !== undefined) return { setup, stream, finding };
    }
    return undefined;
  }

  #search(setup: EngineSetup, stream: readonly GuestRequest[], rule: string): Finding | undefined {
    for (let faults = 0; faults <= this.#faultsLeft; faults++) {
      const found = this.#searchAll(setup, stream, faults, STATES, Infinity);
      if (found.finding?.broken.rule === rule) return found.finding;
      if (found.complete) continue;
      const search = new Search(this.#world(setup, stream, faults), this.#tally);
      const random = new Random(1);
      for (let sample = 0; sample < SAMPLES; sample++) {
        const finding = search.sample(random, faults);
        if (finding?.broken.rule === rule) return finding;
      }
    }
    return undefined;
  }

  #searchAll(
    setup: EngineSetup,
    stream: readonly GuestRequest[],
    faults: number,
    states: number,
    longest: number,
  ): { finding: Finding | undefined; complete: boolean } {
    return new Search(this.#world(setup, stream, faults), this.#tally).all(states, longest);
  }

  #world(setup: EngineSetup, stream: readonly GuestRequest[], faults: number): World {
    return new World(this.#lane, setup, stream, this.#faults, faults);
  }

  /** The same requests; paths are tried from short to long. */
  #withFewestEvents(best: Case): Case {
    const { setup, stream, finding } = best;
    for (let longest = 1; longest < finding.events.length; longest++) {
      for (let faults = 0; faults <= this.#faultsLeft; faults++) {
        const found = this.#searchAll(setup, stream, faults, STATES * 4, longest);
        if (found.finding?.broken.rule === finding.broken.rule) {
          return { setup, stream, finding: found.finding };
        }
      }
    }
    return best;
  }
}

/** Everything that is one step simpler: shorter streams first. */
function* simpler({ setup, stream }: Case): Generator<Omit<Case, 'finding'>> {
  for (let at = stream.length - 1; at >= 0; at--) {
    const shorter = stream.toSpliced(at, 1);
    if (shorter.length > 0) yield { setup, stream: shorter };
  }
  for (const key of Object.keys(PLAIN_SETUP) as (keyof EngineSetup)[]) {
    if (setup[key] === PLAIN_SETUP[key]) continue;
    const plainer: EngineSetup = { ...setup, [key]: PLAIN_SETUP[key] };
    if (isPossible(plainer, stream)) yield { setup: plainer, stream };
  }
  for (const [at, request] of stream.entries()) {
    for (const plainer of plainerRequests(request)) {
      yield { setup, stream: stream.toSpliced(at, 1, plainer) };
    }
  }
}

/** The engine would take it, and its requests have the same meaning. */
function isPossible(setup: EngineSetup, stream: readonly GuestRequest[]): boolean {
  if (setup.files > 1 && setup.chunkSectors < setup.granuleSectors) return false;
  if (setup.barrier === 'off' && stream.some(isBarrier)) return false;
  return stream.every(({ op, to }) => !hasRange(op) || to <= setup.sectors);
}

function* plainerRequests(request: GuestRequest): Generator<GuestRequest> {
  const { op, flags, queue, from, to } = request;
  if ((flags & REQUEST_FUA) !== 0) yield { ...request, flags: flags & ~REQUEST_FUA };
  if ((flags & REQUEST_BARRIER) !== 0) yield { ...request, flags: flags & ~REQUEST_BARRIER };
  if (queue !== 0) yield { ...request, queue: 0 };
  if (!hasRange(op)) return;
  if (to - from > 1) yield { ...request, to: to - 1 };
  if (from > 0) yield { ...request, from: from - 1, to: to - 1 };
}
