/**
 * Bundled and run by itself, under strace: opens a file and sends it commands one by one.
 * argv[2] is a Scenario in JSON; the errnos of the answers come out on stdout.
 */

import process from 'node:process';

import { type FileBackendOptions, openFileBackend } from '../../src/backend/file.ts';
import { SluiceError } from '../../src/errors.ts';

/** [operation, offset, length, flag]: flag is stable, may-unmap, or the number of segments. */
export type Step = readonly [
  op: 'read' | 'write' | 'zero' | 'discard' | 'status' | 'sync' | 'close',
  offset?: number,
  length?: number,
  flag?: number,
];

export interface Scenario {
  readonly path: string;
  readonly options: FileBackendOptions;
  /** Run direct and stable transfers on the thread. */
  readonly inline?: boolean;
  readonly steps: readonly Step[];
}

const DATA = 65536;
const TABLE = 4096;
const SEGMENT = 8192;

async function play({ path, options, inline = false, steps }: Scenario): Promise<number[]> {
  const backend = await openFileBackend(path, options);
  backend.alone = inline;
  const memory = new WebAssembly.Memory({ initial: 64 });
  new Uint8Array(memory.buffer).fill(0xa5, DATA);
  let answered = (_errno: number): void => undefined;
  backend.attach(memory, (_id, errno) => answered(errno));
  const send = (start: () => void): Promise<number> =>
    new Promise((resolve) => {
      answered = resolve;
      start();
    });
  /** Equal segments with gaps between them. */
  const data = (length: number, segments: number): number => {
    if (segments === 1) return DATA;
    const view = new DataView(memory.buffer);
    for (let index = 0; index < segments; index++) {
      view.setUint32(TABLE + index * 8, DATA + index * SEGMENT, true);
      view.setUint32(TABLE + index * 8 + 4, length / segments, true);
    }
    return TABLE;
  };
  const run = async ([op, offset = 0, length = 0, flag = 0]: Step): Promise<number> => {
    switch (op) {
      case 'read': {
        const segments = flag || 1;
        return send(() => backend.read(1, offset, length, segments, data(length, segments)));
      }
      case 'write': {
        const segments = flag > 1 ? flag : 1;
        const at = data(length, segments);
        return send(() => backend.write(1, offset, length, segments, at, flag === 1));
      }
      case 'zero':
        return send(() => backend.writeZeroes(1, offset, length, flag === 1, false));
      case 'discard':
        return send(() => backend.discard(1, offset, length));
      case 'status':
        return send(() => backend.blockStatus(1, offset, length, DATA));
      case 'sync':
        return send(() => backend.sync(1));
      case 'close':
        return backend.close().then(
          () => 0,
          (error: unknown) => (error instanceof SluiceError ? -1 : -2),
        );
    }
  };
  const errnos: number[] = [];
  for (const step of steps) errnos.push(await run(step));
  return errnos;
}

const scenario = JSON.parse(process.argv[2] ?? '') as Scenario;
process.stdout.write(JSON.stringify(await play(scenario)));
