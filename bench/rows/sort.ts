import { loadKernels } from '../kernels.ts';
import { loadNative, type Optimization } from '../native.ts';
import { sortByInsertion, sortByMethod, sortByRadix, type Sort } from '../peers/sort.ts';
import { hashWords, Random } from '../random.ts';
import type { Contender, Contest, Row } from '../row.ts';
import { randomKeys } from './keys.ts';

const SCRATCH = 4096;
const KEYS = 65536;
/** Sets of inputs that samples take in turn. */
const SETS = 4;

/** The C sorts that are worth their time for `count` random keys. */
function randomPeers(count: number): string[] {
  const isPowerOfTwo = (count & (count - 1)) === 0;
  return [
    ...(count <= 128 ? ['insertion', 'rank', 'merge'] : ['qsort', 'merge', 'radix8']),
    'radix6',
    ...(isPowerOfTwo ? ['network'] : []),
  ];
}

/** The fastest TypeScript for `count` random keys. */
function bestTypeScript(count: number): [string, Sort] {
  if (count <= 64) return ['TypeScript insertion', sortByInsertion];
  if (count <= 128) return ['TypeScript .sort()', sortByMethod];
  return ['TypeScript radix', sortByRadix];
}

function compareKeys(a: bigint, b: bigint): number {
  return a < b ? -1 : 1;
}

function randomRow(count: number): Row {
  return {
    name: `sort ${count} random`,
    unit: 'key',
    setup: (size) =>
      sortContest(size, count, randomKeys, randomPeers(count), bestTypeScript(count)),
  };
}

/** Sorted leftovers, then `tail` new keys. */
function prefixRow(count: number, tail: number): Row {
  return {
    name: `sort ${count - tail} sorted + ${tail}`,
    unit: 'key',
    setup: (size) => {
      const keys = (random: Random): bigint[] => {
        const all = randomKeys(random, count);
        return [...all.slice(tail).sort(compareKeys), ...all.slice(0, tail)];
      };
      const ts: [string, Sort] = ['TypeScript insertion', sortByInsertion];
      return sortContest(size, count, keys, ['tail', 'insertion', 'radix8', 'network'], ts);
    },
  };
}

function sortedRow(count: number): Row {
  return {
    name: `sort ${count} sorted`,
    unit: 'key',
    setup: (size) => {
      const keys = (random: Random): bigint[] => randomKeys(random, count).sort(compareKeys);
      const ts: [string, Sort] = ['TypeScript insertion', sortByInsertion];
      return sortContest(size, count, keys, ['tail', 'insertion'], ts);
    },
  };
}

/** sortKeys. */
export const SORT_ROWS: readonly Row[] = [
  randomRow(5),
  randomRow(8),
  randomRow(24),
  randomRow(32),
  randomRow(128),
  randomRow(256),
  randomRow(700),
  randomRow(1024),
  sortedRow(256),
  prefixRow(256, 16),
  prefixRow(1024, 32),
  prefixRow(1024, 128),
];

async function sortContest(
  size: number,
  count: number,
  makeKeys: (random: Random, count: number) => bigint[],
  nativeSorts: readonly string[],
  [tsName, tsSort]: [string, Sort],
): Promise<Contest> {
  const batches = Math.max(2, Math.floor(size / count));
  const total = batches * count;
  const { memory, exports } = await loadKernels(KEYS + 8 * total);
  const keys = new BigUint64Array(memory.buffer, KEYS, total);
  const doubles = new Float64Array(memory.buffer, KEYS, total);
  const words = new Uint32Array(memory.buffer, KEYS, 2 * total);
  const scratch = new BigUint64Array(memory.buffer, SCRATCH, 1536);
  const random = new Random(count);
  const inputs = new BigUint64Array(
    Array.from({ length: SETS * batches }, () => makeKeys(random, count)).flat(),
  );
  const contender = (name: string, run: () => void): Contender => ({
    name,
    prepare: (sample) => {
      const from = (sample % SETS) * total;
      keys.set(inputs.subarray(from, from + total));
    },
    run,
    hash: () => hashWords(words),
  });
  const native = (sort: string, optimization: Optimization): Contender[] => {
    const prototype = `int batch_${sort}(void *, void *, int, int)`;
    const batch = loadNative('sort', optimization)?.(prototype);
    if (batch === undefined) return [];
    const name = `gcc -${optimization} ${sort}`;
    return [contender(name, () => void batch(keys, scratch, batches, count))];
  };
  const o2 = nativeSorts.flatMap((sort) => native(sort, 'O2'));
  const o3 = nativeSorts.flatMap((sort) => native(sort, 'O3 native'));
  const ts = contender(tsName, () => {
    for (let from = 0; from < total; from += count) tsSort(doubles, from, count);
  });
  const ours = contender('sortKeys', () => exports.sortBatch(KEYS, SCRATCH, batches, count));
  return { operations: total, ours, peers: [...o2, ...o3, ts] };
}
