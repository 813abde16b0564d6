import { loadKernels } from '../kernels.ts';
import { loadNative, type Optimization } from '../native.ts';
import { countOverlaps } from '../peers/overlap.ts';
import { Random } from '../random.ts';
import type { Contender, Contest, Row } from '../row.ts';

const STARTS = 65536;
const BLOCK_SIZE = 4096;
const BLOCKS = 2 ** 28;
const MOST_BLOCKS = 64;

function overlapRow(count: number): Row {
  return {
    name: `overlaps among ${count}`,
    unit: 'query',
    setup: (size) => overlapContest(size, count),
  };
}

/** countOverlaps. */
export const OVERLAP_ROWS: readonly Row[] = [4, 8, 64, 256].map((count) => overlapRow(count));

/** A random range; near `near`, when there is one, so that some overlap. */
function randomRange(random: Random, near?: number): [start: number, end: number] {
  const start =
    near !== undefined && random.below(4) === 0
      ? near + random.below(MOST_BLOCKS) * BLOCK_SIZE
      : random.below(BLOCKS) * BLOCK_SIZE;
  return [start, start + (1 + random.below(MOST_BLOCKS)) * BLOCK_SIZE];
}

async function overlapContest(size: number, count: number): Promise<Contest> {
  const batches = Math.max(2, Math.floor(size / count));
  const total = batches * count;
  const endsAt = STARTS + 8 * total;
  const queriesAt = endsAt + 8 * total;
  const { memory, exports } = await loadKernels(queriesAt + 16 * batches);
  const { buffer } = memory;
  const starts = new Float64Array(total);
  const ends = new Float64Array(total);
  const queries = new Float64Array(2 * batches);
  const random = new Random(count);
  for (let i = 0; i < batches; i++) {
    const query = randomRange(random);
    queries.set(query, 2 * i);
    for (let at = i * count; at < (i + 1) * count; at++) {
      [starts[at], ends[at]] = randomRange(random, query[0]);
    }
  }
  const write = (address: number, values: Float64Array): BigUint64Array => {
    const place = new BigUint64Array(buffer, address, values.length);
    place.set([...values].map((value) => BigInt(value)));
    return place;
  };
  const words = [write(STARTS, starts), write(endsAt, ends), write(queriesAt, queries)];

  let hash = 0;
  const contender = (name: string, run: () => number): Contender => ({
    name,
    run: () => {
      hash = run();
    },
    hash: () => hash >>> 0,
  });
  const native = (optimization: Optimization): Contender[] => {
    const prototype = 'int batch_overlap(void *, void *, void *, int, int)';
    const batch = loadNative('overlap', optimization)?.(prototype);
    if (batch === undefined) return [];
    return [contender(`gcc -${optimization}`, () => batch(...words, batches, count))];
  };
  const ts = contender('TypeScript', () => {
    let sum = 0;
    for (let i = 0; i < batches; i++) {
      const [start, end] = [queries[2 * i]!, queries[2 * i + 1]!];
      sum = (Math.imul(sum, 31) + countOverlaps(starts, ends, i * count, count, start, end)) | 0;
    }
    return sum;
  });
  const ours = contender('countOverlaps', () =>
    exports.overlapBatch(STARTS, endsAt, queriesAt, batches, count),
  );
  return { operations: batches, ours, peers: [...native('O2'), ...native('O3 native'), ts] };
}
