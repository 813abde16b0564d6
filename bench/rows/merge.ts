import { loadKernels } from '../kernels.ts';
import { loadNative, type Optimization } from '../native.ts';
import { sortAndMerge } from '../peers/merge.ts';
import { hashWords, Random } from '../random.ts';
import type { Contender, Contest, Row } from '../row.ts';

const SCRATCH = 4096;
const KEYS = 32768;
const REQUESTS = 65536;
const REQUEST_SIZE = 16;
const BLOCK_SIZE = 4096;
const LIMIT_BYTES = 1048576;
/** A terabyte. */
const BLOCKS = 2 ** 28;
const KIND_WRITE = 2;
/** Sets of inputs that samples take in turn. */
const SETS = 4;

function nativeSorts(count: number): string[] {
  return count <= 32 ? ['insertion', 'rank', 'network'] : ['merge', 'radix6', 'radix8', 'network'];
}

function mergeRow(count: number): Row {
  return {
    name: `sort and merge ${count}`,
    unit: 'request',
    setup: (size) => mergeContest(size, count),
  };
}

/** Requests to keys, sorted, cut into runs of neighbours. */
export const MERGE_ROWS: readonly Row[] = [8, 32, 128, 256, 1024].map((count) => mergeRow(count));

/** The inputs of one sample: the same requests in the layouts of both sides. */
class RequestSet {
  readonly offsets: Float64Array;
  readonly lengths: Uint32Array;
  readonly kinds: Uint32Array;
  /** As assembly/simd/bench.ts and bench/c/merge.c read them. */
  readonly records: Uint8Array;

  constructor(total: number) {
    this.offsets = new Float64Array(total);
    this.lengths = new Uint32Array(total);
    this.kinds = new Uint32Array(total);
    this.records = new Uint8Array(REQUEST_SIZE * total);
  }

  /** In each batch, one of two requests goes on where an earlier one ended. */
  static random(random: Random, batches: number, count: number): RequestSet {
    const set = new RequestSet(batches * count);
    const view = new DataView(set.records.buffer);
    for (let at = 0; at < batches * count; at++) {
      const batch = at - (at % count);
      const last = random.below(2) === 0 && at > batch ? batch + random.below(at - batch) : -1;
      set.offsets[at] = last < 0 ? random.below(BLOCKS) * BLOCK_SIZE : set.#end(last);
      set.kinds[at] = last < 0 ? random.below(2) * KIND_WRITE : set.kinds[last]!;
      set.lengths[at] = (1 + random.below(2)) * BLOCK_SIZE;
      set.#write(view, at);
    }
    return set;
  }

  copy(from: RequestSet): void {
    this.offsets.set(from.offsets);
    this.lengths.set(from.lengths);
    this.kinds.set(from.kinds);
  }

  #end(index: number): number {
    return this.offsets[index]! + this.lengths[index]!;
  }

  #write(view: DataView, index: number): void {
    const at = index * REQUEST_SIZE;
    view.setBigUint64(at, BigInt(this.offsets[index]!), true);
    view.setUint32(at + 8, this.lengths[index]!, true);
    view.setUint32(at + 12, this.kinds[index]!, true);
  }
}

async function mergeContest(size: number, count: number): Promise<Contest> {
  const batches = Math.max(2, Math.floor(size / count));
  const total = batches * count;
  const runsAt = REQUESTS + REQUEST_SIZE * total;
  const { memory, exports } = await loadKernels(runsAt + 8 * total);
  const runs = new Uint32Array(memory.buffer, runsAt, 2 * total);
  const records = new Uint8Array(memory.buffer, REQUESTS, REQUEST_SIZE * total);
  const random = new Random(count);
  const inputs = Array.from({ length: SETS }, () => RequestSet.random(random, batches, count));
  const current = new RequestSet(total);

  let found = 0;
  const contender = (name: string, run: () => number): Contender => ({
    name,
    prepare: (sample) => {
      const input = inputs[sample % SETS]!;
      current.copy(input);
      records.set(input.records);
      runs.fill(0);
    },
    run: () => {
      found = run();
    },
    hash: () => (hashWords(runs) ^ found) >>> 0,
  });
  const nativeKeys = new Uint8Array(memory.buffer, KEYS, 8 * count);
  const scratch = new Uint8Array(memory.buffer, SCRATCH, 12288);
  const native = (sort: string, optimization: Optimization): Contender[] => {
    const prototype = `int batch_${sort}(void *, void *, void *, void *, int, int, uint32_t)`;
    const batch = loadNative('merge', optimization)?.(prototype);
    if (batch === undefined) return [];
    const run = (): number =>
      batch(records, nativeKeys, scratch, runs, batches, count, LIMIT_BYTES);
    return [contender(`gcc -${optimization} ${sort}`, run)];
  };
  const { offsets, lengths, kinds } = current;
  const requests = { offsets, lengths, kinds, keys: new Float64Array(count), runs };
  const ts = contender('TypeScript', () => {
    let sum = 0;
    for (let at = 0; at < total; at += count) sum += sortAndMerge(requests, at, count, LIMIT_BYTES);
    return sum;
  });
  const ours = contender('sortKeys', () =>
    exports.mergeBatch(REQUESTS, KEYS, SCRATCH, runsAt, batches, count, LIMIT_BYTES),
  );
  const o2 = nativeSorts(count).flatMap((sort) => native(sort, 'O2'));
  const o3 = nativeSorts(count).flatMap((sort) => native(sort, 'O3 native'));
  return { operations: total, ours, peers: [...o2, ...o3, ts] };
}
