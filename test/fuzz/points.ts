/** The counters of the coverage build: what they count, and how a run has left them. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../../bench/root.ts';
import type { EngineExports } from '../support/engine.ts';
import { COUNTERS, REGION } from './layout.ts';

/** What a counter counts (scripts/coverage-transform.mjs). */
export interface Point {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly kind: 'statement' | 'function' | 'then' | 'else' | 'case' | 'operand' | 'loop';
  readonly function: string;
}

/** The points of build/engine.cov.wasm, in the order of its counters. */
export function loadPoints(): Point[] {
  return JSON.parse(readFileSync(join(ROOT, 'build/engine.cov.json'), 'utf8')) as Point[];
}

/** The coverage build over a memory that nobody else uses. */
export function openCoverageBuild(
  points: readonly Point[],
  memory: WebAssembly.Memory,
): Instrumented {
  const module = new WebAssembly.Module(readFileSync(join(ROOT, 'build/engine.cov.wasm')));
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  const base = exports['coverageBase'] as WebAssembly.Global;
  if (COUNTERS + points.length > REGION) throw new Error('more counters than there is room for');
  base.value = COUNTERS;
  const counters = new Uint8Array(memory.buffer, COUNTERS, Math.ceil(points.length / 4) * 4);
  return { exports: exports as unknown as EngineExports, memory, counters };
}

/** An engine that counts. */
export interface Instrumented {
  readonly exports: EngineExports;
  readonly memory: WebAssembly.Memory;
  /** One byte for each point; it stops at 255. */
  readonly counters: Uint8Array;
}

/** How often is often: 1, 2, 3, 4-7, 8-15, 16-31, 32-127, more. */
export const BUCKETS = 8;

const BUCKET_OF = Uint8Array.from({ length: 256 }, (_, count) => {
  const ends = [1, 2, 3, 7, 15, 31, 127, 255];
  return count === 0 ? 0 : ends.findIndex((end) => count <= end);
});

/**
 * The features of the run that has left `counters`, of the points that are not 0 in `counted`:
 * point times BUCKETS plus bucket. Fills `into` and returns how many there are.
 */
export function readFeatures(counters: Uint8Array, counted: Uint8Array, into: Uint32Array): number {
  const words = new Uint32Array(counters.buffer, counters.byteOffset, counters.length >> 2);
  let found = 0;
  for (let word = 0; word < words.length; word++) {
    if (words[word] === 0) continue;
    for (let point = word << 2; point < (word << 2) + 4; point++) {
      const count = counters[point]!;
      if (count === 0 || counted[point] === 0) continue;
      into[found] = point * BUCKETS + BUCKET_OF[count]!;
      found += 1;
    }
  }
  return found;
}
