/** The builds of the engine that the engine tests run. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../../bench/root.ts';
import type { EngineExports } from '../../src/engine-modules.ts';

export type { EngineExports };

/** One build of the engine. */
export interface Build {
  readonly name: string;
  readonly module: WebAssembly.Module;
}

/**
 * The debug build, in which the engine checks its own beliefs, and the release build. The file
 * that SLUICE_ENGINE_WASM names stands for both: scripts/mutants.mjs runs the tests on its mutants.
 */
export const BUILDS: readonly Build[] = findBuilds();

/** Instantiates a build over a memory. */
export function instantiate(build: Build, memory: WebAssembly.Memory): EngineExports {
  const instance = new WebAssembly.Instance(build.module, { env: { memory } });
  return instance.exports as unknown as EngineExports;
}

function findBuilds(): Build[] {
  const given = process.env['SLUICE_ENGINE_WASM'];
  if (given !== undefined) return [load('given', given)];
  return [load('debug', built('engine.debug.wasm')), load('release', built('engine.wasm'))];
}

function built(name: string): string {
  return join(ROOT, 'build', name);
}

function load(name: string, path: string): Build {
  if (!existsSync(path)) throw new Error(`${path} is missing: run \`npm run build\` first`);
  return { name, module: new WebAssembly.Module(readFileSync(path)) };
}
