/**
 * The crash explorer of qcow2: random streams over every shape of image, and at each moment the
 * states that a power cut may leave. One of them is often where the next stream begins.
 */
import { Random } from '../random.ts';
import { RuleBroken } from '../rule-broken.ts';
import { describeRequest, SECTOR_BYTES } from '../stream.ts';
import { type BuiltImage, buildImage, type ImageShape } from './image-builder.ts';
import { randomSetup, randomStream, SHAPES } from './plan.ts';
import type { OpenSubject } from './subject.ts';
import { type Qcow2Case, Qcow2World } from './world.ts';

/** What an exploration covers. */
export interface Qcow2Exploration {
  /** What is explored. */
  readonly open: OpenSubject;
  /** The same seed explores the same. Default 1. */
  readonly seed?: number;
  /** Crash states to look at before it ends. */
  readonly states: number;
  /** Requests of the longest stream; default 12. */
  readonly requests?: number;
  /** Default: all. */
  readonly shapes?: readonly ImageShape[];
}

/** What was covered, and the first broken promise. */
export interface Qcow2Result {
  readonly states: number;
  readonly streams: number;
  /** Calls of the engine. */
  readonly steps: number;
  readonly seconds: number;
  /** Commands that have failed, by what they were for (world.ts), and how often. */
  readonly failed: ReadonlyMap<string, number>;
  readonly failure?: Qcow2Failure;
}

/** A broken promise. */
export interface Qcow2Failure {
  /** Which: a short name, such as `durability` or `check`. */
  readonly rule: string;
  readonly message: string;
  /** The image that the exploration began with, and how many power cuts came since. */
  readonly image: string;
  /** The configuration. */
  readonly setup: string;
  /** The shortest stream that was found. */
  readonly stream: readonly string[];
  /** One line for each event. */
  readonly timeline: string;
}

const DEFAULT_REQUESTS = 12;
/** Streams on one image, with a power cut between them. */
const GENERATIONS = 4;
/** Codes of one generation. */
const CODES = 1024;
const SHRINK_SEEDS = 6;
/** Steps of a stream, one time with another. */
const LATEST_KILL = 60;

/** See the head of the file. */
export async function exploreQcow2(options: Qcow2Exploration): Promise<Qcow2Result> {
  const { shapes = SHAPES, seed = 1, states } = options;
  const beginnings = await Promise.all(
    shapes.map(async (shape) => ({ shape, built: await buildImage(shape) })),
  );
  const random = new Random(seed);
  const started = performance.now();
  const failed = new Map<string, number>();
  const tally = { states: 0, streams: 0, steps: 0, failed };
  const seconds = (): number => (performance.now() - started) / 1000;
  for (const { shape, built } of endlessly(beginnings)) {
    if (tally.states >= states) break;
    let first: BuiltImage | undefined = built;
    for (let cuts = 0; cuts < GENERATIONS && first !== undefined; cuts++) {
      const explored = caseOf(random, first, cuts * CODES, shape, options);
      const world = new Qcow2World(options.open, explored);
      const broken = brokenBy(() => world.run());
      tally.states += world.states;
      tally.steps += world.steps;
      tally.streams += 1;
      for (const purpose of world.failed) failed.set(purpose, (failed.get(purpose) ?? 0) + 1);
      if (broken !== undefined) {
        const image = `${shape.name}, after ${cuts} power cuts`;
        return {
          ...tally,
          seconds: seconds(),
          failure: describeFailure(options.open, explored, image),
        };
      }
      first = random.chance(0.5) ? world.cut() : undefined;
    }
  }
  return { ...tally, seconds: seconds() };
}

function* endlessly<T>(items: readonly T[]): Generator<T, void, void> {
  while (items.length > 0) yield* items;
}

function caseOf(
  random: Random,
  first: BuiltImage,
  base: number,
  shape: ImageShape,
  { requests = DEFAULT_REQUESTS }: Qcow2Exploration,
): Qcow2Case {
  const setup = randomSetup(random);
  const clusterSectors = 2 ** (shape.format?.clusterBits ?? 9) / SECTOR_BYTES;
  const sectors = first.codes.length;
  const count = 1 + random.below(requests);
  const stream = randomStream(random, setup, sectors, clusterSectors, count);
  const killAt = random.chance(0.3) ? 1 + random.below(LATEST_KILL) : undefined;
  return { first, setup, stream, base, seed: random.next(), killAt };
}

/** What breaks; a trap of the engine is a broken promise, too. */
export function brokenBy(run: () => void): RuleBroken | undefined {
  try {
    run();
    return undefined;
  } catch (error) {
    if (error instanceof RuleBroken) return error;
    if (error instanceof WebAssembly.RuntimeError) return new RuleBroken('trap', error.message);
    throw error;
  }
}

/** Tells the shortest story in which the same promise breaks. */
export function describeFailure(open: OpenSubject, found: Qcow2Case, image: string): Qcow2Failure {
  const shortest = shrink(open, found);
  const world = new Qcow2World(open, shortest, true);
  const broken = brokenBy(() => world.run());
  const { rule, message } = broken ?? new RuleBroken('unrepeatable', 'it does not happen again');
  const { setup, stream } = shortest;
  const words = Object.entries(setup).map(([name, value]) => `${name} ${value}`);
  const timeline = [...(world.lines ?? []), `BROKEN   ${rule}: ${message}`].join('\n');
  const requests = stream.map(describeRequest);
  return { rule, message, image, setup: words.join(', '), stream: requests, timeline };
}

/** Leaves out requests as long as the same promise breaks, in some order of events. */
function shrink(open: OpenSubject, found: Qcow2Case): Qcow2Case {
  const rule = ruleOf(open, found);
  let shortest = found;
  for (let at = 0; at < shortest.stream.length;) {
    const stream = shortest.stream.filter((_, index) => index !== at);
    const shorter = shortest;
    const seeds = [found.seed, ...Array.from({ length: SHRINK_SEEDS }, (_, index) => index)];
    const seed = seeds.find((seed) => ruleOf(open, { ...shorter, stream, seed }) === rule);
    if (seed === undefined) at += 1;
    else shortest = { ...shorter, stream, seed };
  }
  return shortest;
}

function ruleOf(open: OpenSubject, explored: Qcow2Case): string | undefined {
  if (explored.stream.length === 0) return undefined;
  return brokenBy(() => new Qcow2World(open, explored).run())?.rule;
}
