/**
 * Sweeps over one stream: something goes wrong at each step of it, one run for each. The same
 * judges as in an exploration look at every run.
 */
import { Random } from '../random.ts';
import type { GuestRequest } from '../stream.ts';
import { type BuiltImage, buildImage, type ImageShape } from './image-builder.ts';
import { brokenBy, describeFailure, type Qcow2Failure } from './explore.ts';
import type { FileFaults } from './hosts.ts';
import { randomSetup } from './plan.ts';
import type { OpenSubject, Qcow2Setup } from './subject.ts';
import { type Qcow2Case, Qcow2World } from './world.ts';

/**
 * What goes wrong: the process is killed; a command fails; it and many after it; a read of the
 * backing disk or of a compressed cluster.
 */
export type Mishap = 'kill' | 'eio' | 'enospc' | 'outage' | 'source';

/** What is swept over. */
export interface Qcow2Sweep {
  readonly open: OpenSubject;
  readonly shape: ImageShape;
  readonly mishap: Mishap;
  readonly stream: readonly GuestRequest[];
  /** What differs from a configuration that the seed decides, with all that is left to chance. */
  readonly setup?: Partial<Qcow2Setup>;
  readonly seed: number;
  /** The first step at which something goes wrong; default 1. */
  readonly from?: number;
}

/** What a sweep has seen. */
export interface Qcow2SweepResult {
  readonly runs: number;
  readonly states: number;
  /** Commands that have failed, by what they were for (world.ts), and how often. */
  readonly failed: ReadonlyMap<string, number>;
  readonly failure?: Qcow2Failure;
}

/** A stream that never ends would be a mistake of the engine. */
const MOST_RUNS = 400;
/** Commands that fail in an outage. */
const OUTAGE = 40;

/** See the head of the file. */
export async function sweepQcow2(options: Qcow2Sweep): Promise<Qcow2SweepResult> {
  const { open, shape, mishap, from = 1 } = options;
  const healthy = caseOf(options, await buildImage(shape));
  const failed = new Map<string, number>();
  let states = 0;
  for (let step = from; step < from + MOST_RUNS; step++) {
    const explored = { ...healthy, ...mishapAt(mishap, step) };
    const world = new Qcow2World(open, explored);
    const broken = brokenBy(() => world.run());
    states += world.states;
    for (const purpose of world.failed) failed.set(purpose, (failed.get(purpose) ?? 0) + 1);
    if (broken !== undefined) {
      const image = `${shape.name}, ${mishap} at ${step}`;
      const failure = describeFailure(open, explored, image);
      return { runs: step - from + 1, states, failed, failure };
    }
    const isPast = mishap === 'kill' ? world.events < step : world.failed.length === 0;
    if (isPast) return { runs: step - from + 1, states, failed };
  }
  return { runs: MOST_RUNS, states, failed };
}

function caseOf({ setup, stream, seed }: Qcow2Sweep, first: BuiltImage): Qcow2Case {
  const random = new Random(seed);
  const configured = { ...randomSetup(random), ...setup };
  return { first, setup: configured, stream, base: 0, seed: random.next() };
}

function mishapAt(mishap: Mishap, step: number): Pick<Qcow2Case, 'faults' | 'killAt'> {
  if (mishap === 'kill') return { faults: {}, killAt: step };
  return { faults: faultsOf(mishap, step) };
}

function faultsOf(mishap: Exclude<Mishap, 'kill'>, step: number): FileFaults {
  switch (mishap) {
    case 'eio':
      return { image: { eio: { nth: step } } };
    case 'enospc':
      return { image: { enospc: { nth: step } } };
    case 'source':
      return { backing: { eio: { nth: step } }, compressed: step };
    case 'outage': {
      const nth = Array.from({ length: OUTAGE }, (_, at) => step + at);
      return { image: { eio: { nth } } };
    }
  }
}
