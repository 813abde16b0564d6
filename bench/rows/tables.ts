import { loadKernels } from '../kernels.ts';
import { loadNative, type Optimization } from '../native.ts';
import { Random } from '../random.ts';
import type { Contender, Contest, Row } from '../row.ts';

const ENTRIES_AT = 65536;
const ENTRY_BYTES = 8;
const CLUSTER_BYTES = 65536;
const COPIED = 1n << 63n;
const FILE_CLUSTERS = 2 ** 24;
/** One table in so many has a run that ends before it. */
const BROKEN = 4;

function runRow(count: number): Row {
  return {
    name: `run of ${count} L2 entries`,
    unit: 'run',
    setup: (size) => runContest(Math.max(BROKEN, Math.floor(size / count)), count),
  };
}

function rangeRow(count: number): Row {
  return {
    name: `range among ${count} entries`,
    unit: 'query',
    setup: (size) => rangeContest(Math.max(2, Math.floor(size / count)), count),
  };
}

/** countContiguous and anyInRange: what a lookup and the firewall of a qcow2 image do. */
export const TABLE_ROWS: readonly Row[] = [
  ...[1, 4, 16, 512].map((count) => runRow(count)),
  ...[64, 2048].map((count) => rangeRow(count)),
];

type Hashed = (name: string, run: () => number) => Contender;

function contenders(): Hashed {
  let hash = 0;
  return (name, run) => ({
    name,
    run: () => {
      hash = run();
    },
    hash: () => hash >>> 0,
  });
}

async function runContest(batches: number, count: number): Promise<Contest> {
  const total = batches * count;
  const { memory, exports } = await loadKernels(ENTRIES_AT + total * ENTRY_BYTES);
  const view = new DataView(memory.buffer, ENTRIES_AT);
  const random = new Random(count);
  for (let table = 0; table < batches; table++) {
    const first = BigInt(random.below(FILE_CLUSTERS)) * BigInt(CLUSTER_BYTES);
    const end = table % BROKEN === 0 ? 1 + random.below(count) : count;
    for (let i = 0; i < count; i++) {
      const offset = first + BigInt(i * CLUSTER_BYTES);
      const entry = i < end ? offset | COPIED : 0n;
      view.setBigUint64((table * count + i) * ENTRY_BYTES, entry);
    }
  }
  const words = new Uint32Array(memory.buffer, ENTRIES_AT, total * 2);
  const contender = contenders();
  const native = (name: string, optimization: Optimization): Contender[] => {
    const batch = loadNative('tables', optimization)?.(`int batch_${name}(void *, int, int, int)`);
    if (batch === undefined) return [];
    const run = (): number => batch(words, batches, count, CLUSTER_BYTES);
    return [contender(`gcc -${optimization} ${name}`, run)];
  };
  const ts = contender('TypeScript', () => {
    let sum = 0;
    for (let table = 0; table < batches; table++) {
      sum = (Math.imul(sum, 31) + runLength(view, table * count, count)) | 0;
    }
    return sum;
  });
  const ours = contender('countContiguous', () =>
    exports.runBatch(ENTRIES_AT, batches, count, CLUSTER_BYTES),
  );
  const peers = [...native('run', 'O2'), ...native('run8', 'O3 native'), ts];
  return { operations: batches, ours, peers };
}

/** Halves of entries as numbers: BigInts would cost ten times as much. */
function runLength(view: DataView, first: number, count: number): number {
  let high = view.getUint32(first * ENTRY_BYTES);
  let low = view.getUint32(first * ENTRY_BYTES + 4);
  for (let i = 0; i < count; i++) {
    const at = (first + i) * ENTRY_BYTES;
    if (view.getUint32(at + 4) !== low || view.getUint32(at) !== high) return i;
    low += CLUSTER_BYTES;
    if (low >= 2 ** 32) {
      low -= 2 ** 32;
      high += 1;
    }
  }
  return count;
}

async function rangeContest(batches: number, count: number): Promise<Contest> {
  const rangesAt = ENTRIES_AT + count * ENTRY_BYTES;
  const { memory, exports } = await loadKernels(rangesAt + batches * 16);
  const view = new DataView(memory.buffer);
  const random = new Random(count);
  for (let i = 0; i < count; i++) {
    const offset = BigInt(1 + random.below(FILE_CLUSTERS)) * BigInt(CLUSTER_BYTES);
    view.setBigUint64(ENTRIES_AT + i * ENTRY_BYTES, offset | COPIED);
  }
  for (let i = 0; i < batches; i++) {
    const start = BigInt(1 + random.below(FILE_CLUSTERS)) * BigInt(CLUSTER_BYTES);
    view.setBigUint64(rangesAt + i * 16, start, true);
    view.setBigUint64(rangesAt + i * 16 + 8, start + BigInt(CLUSTER_BYTES), true);
  }
  const entries = new Uint32Array(memory.buffer, ENTRIES_AT, count * 2);
  const ranges = new Uint32Array(memory.buffer, rangesAt, batches * 4);
  const contender = contenders();
  const native = (optimization: Optimization): Contender[] => {
    const batch = loadNative('tables', optimization)?.('int batch_range(void *, void *, int, int)');
    if (batch === undefined) return [];
    return [contender(`gcc -${optimization}`, () => batch(entries, ranges, batches, count))];
  };
  const ours = contender('anyInRange', () =>
    exports.rangeBatch(ENTRIES_AT, rangesAt, batches, count),
  );
  return { operations: batches, ours, peers: [...native('O2'), ...native('O3 native')] };
}
