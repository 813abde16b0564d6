// The kernels of assembly/simd in a module of their own (assembly/simd/bench.ts).

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { main as asc } from 'assemblyscript/asc';
import { ROOT } from './root.ts';

/** What assembly/simd/bench.ts exports. Addresses are byte offsets into the memory. */
export type KernelExports = {
  sortKeys(keys: number, scratch: number, count: number): void;
  countOverlaps(starts: number, ends: number, count: number, start: bigint, end: bigint): number;
  isZero(address: number, lengthBytes: number): number;
  sortBatch(keys: number, scratch: number, batches: number, count: number): void;
  mergeBatch(
    requests: number,
    keys: number,
    scratch: number,
    runs: number,
    batches: number,
    count: number,
    limitBytes: number,
  ): number;
  overlapBatch(
    starts: number,
    ends: number,
    queries: number,
    batches: number,
    count: number,
  ): number;
  zeroBatch(address: number, batches: number, lengthBytes: number): number;
  zeroPrefix(address: number, lengthBytes: number): number;
  anyInRange(entries: number, count: number, start: bigint, end: bigint): number;
  countContiguous(entries: number, count: number, first: bigint, step: bigint): number;
  countEqual(entries: number, count: number): number;
  runBatch(entries: number, batches: number, count: number, step: number): number;
  rangeBatch(entries: number, ranges: number, batches: number, count: number): number;
};

export interface Kernels {
  readonly memory: WebAssembly.Memory;
  readonly exports: KernelExports;
}

export type Flavour = 'release' | 'debug';

const OUTPUT = { release: 'kernels.wasm', debug: 'kernels.debug.wasm' } as const;
const INPUTS = ['assembly', 'assembly/simd', 'assembly/ring', 'assembly/request', 'src/abi'];
const FOLDER = join(ROOT, 'build/bench');
const PAGE_BYTES = 65536;

const modules = new Map<Flavour, Promise<WebAssembly.Module>>();

/** An instance of the kernels over a memory of its own, of `lengthBytes` or a little more. */
export async function loadKernels(
  lengthBytes: number,
  flavour: Flavour = 'release',
): Promise<Kernels> {
  const compiled = modules.get(flavour) ?? loadModule(flavour);
  modules.set(flavour, compiled);
  const memory = new WebAssembly.Memory({ initial: Math.ceil(lengthBytes / PAGE_BYTES) });
  const instance = await WebAssembly.instantiate(await compiled, { env: { memory } });
  return { memory, exports: instance.exports as KernelExports };
}

async function loadModule(flavour: Flavour): Promise<WebAssembly.Module> {
  const file = join(FOLDER, OUTPUT[flavour]);
  if (!isFresh(file)) await compile(flavour, file);
  return WebAssembly.compile(readFileSync(file));
}

/** Compiles into a name of its own and renames: another process may be doing the same. */
async function compile(flavour: Flavour, file: string): Promise<void> {
  mkdirSync(FOLDER, { recursive: true });
  const temporary = `${file}.${process.pid}`;
  const config = ['--config', 'bench/asconfig.json', '--target', flavour];
  const { stderr } = process;
  const args = ['--baseDir', ROOT, ...config, '--outFile', temporary];
  const { error } = await asc(args, { stdout: stderr, stderr });
  if (error !== null) throw new Error(`the kernels do not compile (${flavour})`, { cause: error });
  renameSync(temporary, file);
}

function isFresh(file: string): boolean {
  if (!existsSync(file)) return false;
  const builtMs = statSync(file).mtimeMs;
  return INPUTS.every((folder) =>
    readdirSync(join(ROOT, folder)).every(
      (name) => statSync(join(ROOT, folder, name)).mtimeMs < builtMs,
    ),
  );
}
