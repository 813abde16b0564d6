import { loadKernels } from '../kernels.ts';
import { loadNative, type Optimization } from '../native.ts';
import { areZero } from '../peers/zero.ts';
import { Random } from '../random.ts';
import type { Contender, Contest, Row } from '../row.ts';

const BLOCKS_AT = 65536;
/** Bytes for each operation that a sample should have: 16384 make 64 blocks of 4 KiB. */
const BYTES_EACH = 16;
/** One block in so many is not zero, at a random place. */
const NOT_ZERO = 8;

const NATIVE = ['words', 'blocks64', 'blocks256', 'memcmp'];

function zeroRow(lengthBytes: number): Row {
  const name = lengthBytes < 1024 ? `${lengthBytes} B` : `${lengthBytes / 1024} KiB`;
  return {
    name: `zero scan ${name}`,
    unit: 'block',
    setup: (size) => zeroContest(size, lengthBytes),
  };
}

/** isZero. */
export const ZERO_ROWS: readonly Row[] = [512, 4096, 65536].map((length) => zeroRow(length));

async function zeroContest(size: number, lengthBytes: number): Promise<Contest> {
  const batches = Math.max(NOT_ZERO, Math.floor((size * BYTES_EACH) / lengthBytes));
  const total = batches * lengthBytes;
  const { memory, exports } = await loadKernels(BLOCKS_AT + total);
  const bytes = new Uint8Array(memory.buffer, BLOCKS_AT, total);
  const words = new Uint32Array(memory.buffer, BLOCKS_AT, total / 4);
  const buffer = Buffer.from(memory.buffer, BLOCKS_AT, total);
  const zeroes = Buffer.alloc(lengthBytes);
  const random = new Random(lengthBytes);
  for (let at = 0; at < total; at += NOT_ZERO * lengthBytes) {
    const block = at + random.below(NOT_ZERO) * lengthBytes;
    if (block < total) bytes[block + random.below(lengthBytes)] = 1;
  }

  let hash = 0;
  const contender = (name: string, run: () => number): Contender => ({
    name,
    run: () => {
      hash = run();
    },
    hash: () => hash >>> 0,
  });
  const each = (isZero: (at: number) => boolean) => (): number => {
    let sum = 0;
    for (let at = 0; at < total; at += lengthBytes) {
      sum = (Math.imul(sum, 31) + (isZero(at) ? 1 : 0)) | 0;
    }
    return sum;
  };
  const native = (scan: string, optimization: Optimization): Contender[] => {
    const batch = loadNative('zero', optimization)?.(`int batch_${scan}(void *, int, int)`);
    if (batch === undefined) return [];
    const name = `gcc -${optimization} ${scan}`;
    return [contender(name, () => batch(bytes, batches, lengthBytes))];
  };
  const peers = [
    ...native('words', 'O2'),
    ...NATIVE.flatMap((scan) => native(scan, 'O3 native')),
    contender(
      'TypeScript',
      each((at) => areZero(words, at >> 2, lengthBytes >> 2)),
    ),
    contender(
      'Buffer.compare',
      each((at) => isEqual(buffer, zeroes, at, lengthBytes)),
    ),
  ];
  const ours = contender('isZero', () => exports.zeroBatch(BLOCKS_AT, batches, lengthBytes));
  return { operations: batches, ours, peers };
}

function isEqual(buffer: Buffer, zeroes: Buffer, at: number, lengthBytes: number): boolean {
  return buffer.compare(zeroes, 0, lengthBytes, at, at + lengthBytes) === 0;
}
