// C peers: bench/c/*.c, compiled by gcc when a row asks for them and called through koffi, so that
// they take turns with ours in one process, on the same memory.

import { execFileSync } from 'node:child_process';
import { mkdirSync, renameSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type * as Koffi from 'koffi';
import { ROOT } from './root.ts';

const FLAGS = { O2: ['-O2'], 'O3 native': ['-O3', '-march=native'] } as const;

export type Optimization = keyof typeof FLAGS;

/** A function of a C library. */
export type NativeFunction = (...args: (number | ArrayBufferView)[]) => number;

/** Looks up a function by its C prototype. */
export type NativeLibrary = (prototype: string) => NativeFunction;

const FOLDER = join(ROOT, 'build/bench');
const libraries = new Map<string, NativeLibrary>();
const missing: string[] = [];
let koffi: typeof Koffi | undefined;

/** What was left out and why, one line each. */
export function nativeNotes(): readonly string[] {
  return missing;
}

/** bench/c/`name`.c compiled, or undefined, with a note, where gcc or koffi is not installed. */
export function loadNative(name: string, optimization: Optimization): NativeLibrary | undefined {
  const key = `${name}-${optimization.replace(' ', '-')}`;
  const known = libraries.get(key);
  if (known !== undefined) return known;
  if (missing.length > 0) return undefined;
  const reason = findMissing();
  if (reason !== undefined) {
    missing.push(`C peers skipped: ${reason}`);
    return undefined;
  }
  const library = koffi!.load(compile(name, key, FLAGS[optimization]));
  const lookUp: NativeLibrary = (prototype) => library.func(prototype) as NativeFunction;
  libraries.set(key, lookUp);
  return lookUp;
}

function compile(name: string, key: string, flags: readonly string[]): string {
  mkdirSync(FOLDER, { recursive: true });
  const file = join(FOLDER, `${key}.so`);
  const temporary = `${file}.${process.pid}`;
  const source = join(ROOT, 'bench/c', `${name}.c`);
  const common = ['-std=c11', '-shared', '-fPIC'];
  execFileSync('gcc', [...flags, ...common, '-o', temporary, source]);
  renameSync(temporary, file);
  return file;
}

/** Why there can be no C peers, or undefined. */
function findMissing(): string | undefined {
  try {
    execFileSync('gcc', ['--version'], { stdio: 'ignore' });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return 'gcc is not installed';
  }
  try {
    koffi = createRequire(import.meta.url)('koffi') as typeof Koffi;
  } catch (error) {
    return `koffi cannot be loaded (${(error as NodeJS.ErrnoException).code ?? String(error)})`;
  }
  return undefined;
}
