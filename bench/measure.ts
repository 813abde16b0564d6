// Contenders take turns for several rounds; a round gives each a median, and what is reported of
// two contenders is the median and the range of the ratios of their rounds: what else happens on
// the machine then hits both.

import { Bench } from 'tinybench';
import type { Contender, Contest, Row } from './row.ts';

export interface Budget {
  /** Rounds, each of which gives every contender a turn. */
  readonly rounds: number;
  /** Time of a turn. */
  readonly timeMs: number;
  /** Least number of samples of a turn. */
  readonly samples: number;
  /** Time before the first round, for the compilers of the engine. */
  readonly warmupMs: number;
  /** Operations of a sample, about. */
  readonly size: number;
}

/** What a run from the command line takes. */
export const DEFAULT_BUDGET: Budget = {
  rounds: 7,
  timeMs: 15,
  samples: 5,
  warmupMs: 60,
  size: 16384,
};

/** Enough to see that a row works. */
export const TINY_BUDGET: Budget = { rounds: 1, timeMs: 0, samples: 1, warmupMs: 0, size: 64 };

export interface PeerResult {
  readonly name: string;
  /** Median over the rounds, in nanoseconds per operation. */
  readonly nanoseconds: number;
  /** Ours divided by this one: median, least and largest of the rounds. Below 1 we are faster. */
  readonly ratio: number;
  readonly ratioLow: number;
  readonly ratioHigh: number;
}

export interface RowResult {
  readonly name: string;
  readonly unit: string;
  readonly hash: number;
  readonly ours: { readonly name: string; readonly nanoseconds: number };
  readonly peers: readonly PeerResult[];
}

/** Runs one row; throws when a contender computes something else than ours. */
export async function runRow(row: Row, budget: Budget): Promise<RowResult> {
  const contest = await row.setup(budget.size);
  const contenders = [contest.ours, ...contest.peers];
  const hash = sharedHash(row, contenders);
  if (budget.warmupMs > 0) {
    for (const contender of contenders) takeTurn(contest, contender, budget.warmupMs, 1);
  }
  const turns = contenders.map((): number[] => []);
  for (let round = 0; round < budget.rounds; round++) {
    for (let i = 0; i < contenders.length; i++) {
      const order = (i + round) % contenders.length;
      const contender = contenders[order]!;
      turns[order]!.push(takeTurn(contest, contender, budget.timeMs, budget.samples));
    }
  }
  const [ours, ...peers] = turns;
  return {
    name: row.name,
    unit: row.unit,
    hash,
    ours: { name: contest.ours.name, nanoseconds: median(ours!) },
    peers: peers.map((peer, i) => compare(contest.peers[i]!.name, ours!, peer)),
  };
}

/** The hash of everybody's results. */
function sharedHash(row: Row, contenders: readonly Contender[]): number {
  const hashes = contenders.map((contender) => {
    contender.prepare?.(0);
    contender.run();
    return contender.hash();
  });
  const odd = hashes.findIndex((hash) => hash !== hashes[0]);
  if (odd > 0)
    throw new Error(`${row.name}: ${contenders[odd]!.name} has another result than ours`);
  return hashes[0]!;
}

/** The median of one turn, in nanoseconds per operation. */
function takeTurn(
  contest: Contest,
  contender: Contender,
  time: number,
  iterations: number,
): number {
  const bench = new Bench({ time, iterations, warmup: false, throws: true });
  let sample = 0;
  bench.add(contender.name, () => {
    const begin = bench.now();
    contender.prepare?.(sample++);
    const start = bench.now();
    contender.run();
    const end = bench.now();
    // The batch stands for one operation; the budget pays for everything.
    return {
      overriddenDuration: (end - start) / contest.operations,
      overriddenIterationCost: end - begin,
    };
  });
  const [task] = bench.runSync();
  const result = task!.result;
  if (result.state !== 'completed') throw new Error(`${contender.name}: ${result.state}`);
  return result.latency.p50 * 1e6;
}

function compare(name: string, ours: readonly number[], peer: readonly number[]): PeerResult {
  const ratios = ours.map((nanoseconds, round) => nanoseconds / peer[round]!);
  return {
    name,
    nanoseconds: median(peer),
    ratio: median(ratios),
    ratioLow: Math.min(...ratios),
    ratioHigh: Math.max(...ratios),
  };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
