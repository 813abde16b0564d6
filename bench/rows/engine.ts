import { OP_FLUSH, OP_READ, OP_WRITE } from '../../src/abi/request.ts';
import { COMMAND_SLOTS } from '../../src/abi/limits.ts';
import { REGION_SIZE } from '../../src/abi/region.ts';
import { type CommandRecord, type CompletionRecord, createEngine } from '../../src/engine.ts';
import { ModelEngine } from '../../test/model.ts';
import { Random } from '../random.ts';
import type { Contender, Contest, Row } from '../row.ts';

const BLOCK_BYTES = 4096;
const DISK_BLOCKS = 2 ** 28;
const PAGE_BYTES = 65536;
const LARGEST_BATCH = 256;

/** What a stream of requests looks like. */
type Shape = 'random' | 'sequential';

/** A request of the stream: an operation and a block. */
interface Stream {
  readonly ops: Uint8Array;
  readonly blocks: Float64Array;
}

const CONFIG = {
  blockSize: BLOCK_BYTES,
  depth: COMMAND_SLOTS,
  mergeBytes: 1 << 20,
  readOnly: false,
  noFlush: false,
  wce: true,
};

function engineRow(shape: Shape, batch: number): Row {
  return {
    name: `engine ${shape} ${batch}`,
    unit: 'request',
    setup: async (size) => engineContest(shape, batch, Math.max(2, Math.floor(size / batch))),
  };
}

/**
 * The whole engine per 4 KiB request: take, hazard, sort, merge, emit, answer, complete; one flush
 * for each batch. The peer is the tests' reference model in plain TypeScript.
 */
export const ENGINE_ROWS: readonly Row[] = (['random', 'sequential'] as const).flatMap((shape) =>
  [1, 64].map((batch) => engineRow(shape, batch)),
);

function makeStream(shape: Shape, requests: number): Stream {
  const random = new Random(requests);
  const ops = new Uint8Array(requests);
  const blocks = new Float64Array(requests);
  for (let i = 0; i < requests; i++) {
    ops[i] = shape === 'random' && random.below(2) === 0 ? OP_WRITE : OP_READ;
    blocks[i] = shape === 'random' ? random.below(DISK_BLOCKS) : i;
  }
  return { ops, blocks };
}

function engineContest(shape: Shape, batch: number, batches: number): Contest {
  const stream = makeStream(shape, batch * batches);
  return {
    operations: batch * batches,
    ours: wasmEngine(stream, batch),
    peers: [modelEngine(stream, batch)],
  };
}

/** Where the data of the i-th request of a batch lies. */
function dataOf(i: number): number {
  return REGION_SIZE + i * BLOCK_BYTES;
}

function memory(): WebAssembly.Memory {
  const bytes = REGION_SIZE + LARGEST_BATCH * BLOCK_BYTES;
  return new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE_BYTES) });
}

function wasmEngine({ ops, blocks }: Stream, batch: number): Contender {
  const { blockSize, ...config } = CONFIG;
  const engine = createEngine({
    ...config,
    memory: memory(),
    blockSizeBytes: blockSize,
    capacityBytes: DISK_BLOCKS * BLOCK_BYTES,
  });
  const command: CommandRecord = {
    id: 0,
    op: 0,
    flags: 0,
    file: 0,
    segments: 0,
    data: 0,
    offset: 0,
    length: 0,
    guest: 0,
  };
  const completion: CompletionRecord = { tag: 0, status: 0, value: 0, errno: 0 };
  let hash = 0;
  const drain = (): boolean => {
    engine.pump(0);
    while (engine.takeCompletion(completion)) hash += completion.tag + completion.status;
    let answered = false;
    while (engine.takeCommand(command)) {
      hash += command.length;
      engine.result(command.id, 0, 0);
      answered = true;
    }
    return answered;
  };
  return {
    name: 'engine',
    run: () => {
      hash = 0;
      for (let first = 0; first < ops.length; first += batch) {
        for (let i = 0; i < batch; i++) {
          const offset = blocks[first + i]! * BLOCK_BYTES;
          engine.submit(i, ops[first + i]!, 0, offset, BLOCK_BYTES, 1, dataOf(i));
        }
        engine.submit(batch, OP_FLUSH, 0, 0, 0, 0, 0);
        while (drain());
      }
    },
    hash: () => hash >>> 0,
  };
}

function modelEngine({ ops, blocks }: Stream, batch: number): Contender {
  const config = { ...CONFIG, capacity: DISK_BLOCKS * BLOCK_BYTES };
  const model = new ModelEngine(config, new DataView(memory().buffer));
  let hash = 0;
  const drain = (): boolean => {
    model.pump();
    for (const { tag, status } of model.takeCompletions()) hash += tag + status;
    const commands = model.takeCommands();
    for (const { id, length } of commands) {
      hash += length;
      model.result(id, 0);
    }
    return commands.length > 0;
  };
  return {
    name: 'TypeScript model',
    run: () => {
      hash = 0;
      for (let first = 0; first < ops.length; first += batch) {
        for (let i = 0; i < batch; i++) {
          const offset = blocks[first + i]! * BLOCK_BYTES;
          const place = { offset, length: BLOCK_BYTES, segments: 1, data: dataOf(i) };
          model.submit({ tag: i, op: ops[first + i]!, flags: 0, ...place });
        }
        const nothing = { offset: 0, length: 0, segments: 0, data: 0 };
        model.submit({ tag: batch, op: OP_FLUSH, flags: 0, ...nothing });
        while (drain());
      }
    },
    hash: () => hash >>> 0,
  };
}
