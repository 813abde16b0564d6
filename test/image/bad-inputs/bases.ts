/** Good images of many kinds, made by qemu-img and qemu-io: what the bad inputs are made of. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

interface Recipe {
  readonly options?: string;
  readonly size?: string;
  /** qemu-io commands; default: two clusters of data. */
  readonly writes?: readonly string[];
  readonly backing?: string;
  /** qemu-img commands to run on it afterwards. */
  readonly after?: readonly (readonly string[])[];
  /** The image is this file, compressed. */
  readonly compressedFrom?: string;
}

const WRITES = ['write -P 0x11 0 64k', 'write -P 0x22 64k 64k'];
const NOTHING: readonly string[] = [];

const RECIPES = {
  v3: {},
  v2: { options: 'compat=0.10' },
  back: { backing: 'back.raw' },
  snap: { after: [['snapshot', '-c', 's1']] },
  extl2: { options: 'extended_l2=on' },
  data: { options: 'data_file=base-data.raw' },
  raw1: { options: 'data_file=base-raw1.raw,data_file_raw=on' },
  rc1: { options: 'refcount_bits=1' },
  rc64: { options: 'refcount_bits=64' },
  lazy: { options: 'lazy_refcounts=on' },
  bm: { after: [['bitmap', '--add']] },
  zlib: { compressedFrom: 'src.raw' },
  zstd: { compressedFrom: 'src.raw', options: 'compression_type=zstd' },
  small: { options: 'cluster_size=512', size: '1M', writes: ['write -P 0x11 0 64k'] },
  empty: { writes: NOTHING },
} as const satisfies Record<string, Recipe>;

/** The name of a base. */
export type BaseName = keyof typeof RECIPES;

/** All of them. */
export const BASE_NAMES = Object.keys(RECIPES) as BaseName[];

/** The path of a base that makeBases() made. */
export function basePath(folder: string, name: BaseName): string {
  return join(folder, `base-${name}.qcow2`);
}

/** Makes these bases, and the files that they name, in a folder. */
export function makeBases(folder: string, names: readonly BaseName[] = BASE_NAMES): void {
  makeRaw(folder, 'back.raw', '64M', 'write -P 0xbb 0 1M');
  makeRaw(folder, 'src.raw', '1M', 'write -P 0x33 0 512k');
  for (const name of names) makeBase(folder, `base-${name}.qcow2`, RECIPES[name]);
}

/** Runs a program of QEMU's in a folder; answers what it prints. */
export function qemu(folder: string, program: 'qemu-img' | 'qemu-io', args: string[]): string {
  return execFileSync(program, args, { cwd: folder, encoding: 'utf8', stdio: 'pipe' });
}

function makeRaw(folder: string, file: string, size: string, write: string): void {
  qemu(folder, 'qemu-img', ['create', '-q', '-f', 'raw', file, size]);
  qemu(folder, 'qemu-io', ['-f', 'raw', '-c', write, file]);
}

function makeBase(folder: string, file: string, recipe: Recipe): void {
  const options = recipe.options === undefined ? [] : ['-o', recipe.options];
  if (recipe.compressedFrom !== undefined) {
    const from = [recipe.compressedFrom, file];
    qemu(folder, 'qemu-img', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', ...options, ...from]);
    return;
  }
  const backing = recipe.backing === undefined ? [] : ['-b', recipe.backing, '-F', 'raw'];
  const size = recipe.size ?? '64M';
  qemu(folder, 'qemu-img', ['create', '-q', '-f', 'qcow2', ...options, ...backing, file, size]);
  const writes = (recipe.writes ?? WRITES).flatMap((command) => ['-c', command]);
  if (writes.length > 0) qemu(folder, 'qemu-io', ['-f', 'qcow2', ...writes, file]);
  for (const command of recipe.after ?? []) afterwards(folder, file, command);
}

/** `bitmap` names its bitmap after the image, `snapshot` before it. */
function afterwards(folder: string, file: string, command: readonly string[]): void {
  const last = command[0] === 'bitmap' ? [file, 'b0'] : [file];
  qemu(folder, 'qemu-img', [...command, ...last]);
}
