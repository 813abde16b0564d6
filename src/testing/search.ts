/**
 * Going through the events of one stream: every order of them (depth first), or samples.
 */
import { ForkMiss } from './lane.ts';
import type { Random } from './random.ts';
import { RuleBroken } from './rule-broken.ts';
import { isFault, SUBMIT } from './events.ts';
import type { World } from './world.ts';

/** What has been covered; every search adds to it. */
export interface Tally {
  states: number;
  survivors: number;
  kills: number;
  steps: number;
}

/** A broken rule and the events that lead to it. */
export interface Finding {
  readonly broken: RuleBroken;
  readonly events: readonly number[];
  /** The process was killed at the end; writes in flight had changed these sectors. */
  readonly killed: KillMode | undefined;
}

/** Which sectors a write in flight has changed when its process is killed. */
export type KillMode = 'none' | 'all' | 'even';

const KILL_MODES: readonly KillMode[] = ['none', 'all', 'even'];
/** A kill, a restart and a flush cost as much as several steps: one for so many states. */
const STATES_PER_KILL = 16;

/** See the head of the file. */
export class Search {
  readonly #world: World;
  readonly #tally: Tally;
  readonly #events: number[][] = [];
  readonly #path: number[] = [];
  #killed: KillMode | undefined;
  #left = 0;
  #longest = Infinity;

  constructor(world: World, tally: Tally) {
    this.#world = world;
    this.#tally = tally;
  }

  /**
   * Tries every order of events, until `states` have been seen. Returns what broke; `complete` says
   * whether that was all.
   */
  all(states: number, longest = Infinity): { finding: Finding | undefined; complete: boolean } {
    this.#left = states;
    this.#longest = longest;
    this.#world.begin();
    const finding = this.#guard(() => {
      this.#look(0);
      this.#descend(0);
    });
    return { finding, complete: this.#left > 0 };
  }

  /**
   * Goes one way from a new engine to the end, without a fork; so many commands may fail. `eager`:
   * all requests are submitted before anything is answered.
   */
  sample(random: Random, faults: number, eager = false): Finding | undefined {
    this.#left = Infinity;
    const world = this.#world;
    world.begin(faults);
    return this.#guard(() => {
      const events: number[] = [];
      for (let depth = 0; ; depth++) {
        const count = world.events(events);
        if (count === 0) break;
        let event = events[random.below(count)] ?? 0;
        // Not all of them at the beginning.
        while (isFault(event) && !random.chance(0.1)) event = events[random.below(count)] ?? 0;
        if (eager && events.slice(0, count).includes(SUBMIT)) event = SUBMIT;
        this.#apply(depth, event);
      }
      world.checkEnd();
      if (random.below(2) === 0) this.#kill();
    });
  }

  #guard(search: () => void): Finding | undefined {
    this.#killed = undefined;
    this.#path.length = 0;
    const { steps } = this.#world;
    try {
      search();
    } catch (error) {
      if (error instanceof ForkMiss || !isBroken(error)) throw error;
      return { broken: asBroken(error), events: [...this.#path], killed: this.#killed };
    } finally {
      this.#tally.steps += this.#world.steps - steps;
    }
    return undefined;
  }

  #descend(depth: number): void {
    const world = this.#world;
    const events = (this.#events[depth] ??= []);
    const count = world.events(events);
    if (count === 0) world.checkEnd();
    const kills = this.#tally.states % STATES_PER_KILL === 0;
    if (count > 1 || kills) world.save(depth);
    for (let at = 0; at < count && this.#left > 0; at++) {
      if (at > 0) world.restore(depth);
      this.#apply(depth, events[at] ?? 0);
      if (depth + 1 < this.#longest) this.#descend(depth + 1);
    }
    if (!kills) return;
    world.restore(depth);
    this.#path.length = depth;
    this.#kill();
  }

  #apply(depth: number, event: number): void {
    this.#path.length = depth;
    this.#path.push(event);
    this.#world.apply(event);
    this.#look(depth);
  }

  #look(_depth: number): void {
    this.#left -= 1;
    this.#tally.states += 1;
    this.#tally.survivors += this.#world.cut();
  }

  #kill(): void {
    const mode = KILL_MODES[this.#tally.kills % KILL_MODES.length] ?? 'none';
    this.#tally.kills += 1;
    this.#killed = mode;
    this.#world.kill(sectorsKept(mode));
    this.#killed = undefined;
  }
}

/** Which sectors a kill in this mode leaves changed. */
export function sectorsKept(mode: KillMode): (sector: number) => boolean {
  return (sector) => mode === 'all' || (mode === 'even' && sector % 2 === 0);
}

/** A trap of the engine is a broken rule as well: no input may cause one. */
function isBroken(error: unknown): error is Error {
  return error instanceof RuleBroken || error instanceof WebAssembly.RuntimeError;
}

function asBroken(error: Error): RuleBroken {
  return error instanceof RuleBroken ? error : new RuleBroken('trap', error.message);
}
