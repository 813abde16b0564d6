/**
 * A vitest setup file (coverage.config.ts): the coverage build counts while tests run it.
 *
 * Tests know nothing of it: for the time of a call into a module that counts, a part of the memory
 * beside the engine holds the counters, and then again what was there before. What a call has
 * counted is added up; at the end of a test file the sums go to a file of their own in the folder
 * that SLUICE_COVERAGE names, where scripts/coverage.mjs finds them.
 */

import { randomUUID } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll } from 'vitest';

/** Where the sums go. */
const folder = process.env['SLUICE_COVERAGE'];

let reached = new Uint8Array(0);

type Call = (...args: readonly never[]) => unknown;

/** The exports of an instance; those of one that counts add up what they have counted. */
function counted(
  exports: WebAssembly.Exports,
  memory: WebAssembly.Memory | undefined,
): WebAssembly.Exports {
  const base = exports['coverageBase'];
  const count = exports['coverageCount'];
  const counts = base instanceof WebAssembly.Global && count instanceof WebAssembly.Global;
  if (!counts || memory === undefined) return exports;
  const points = Number(count.value);
  if (reached.length < points) reached = new Uint8Array(points);
  const wrapped = Object.entries(exports).map(([name, value]): [string, unknown] => {
    if (typeof value !== 'function') return [name, value];
    const call = value as Call;
    return [
      name,
      (...args: readonly never[]): unknown => {
        // The first argument is the base of the engine.
        const isFree = args.length === 0 || Number(args[0]) >= points;
        base.value = isFree ? 0 : memory.buffer.byteLength - points;
        const counters = new Uint8Array(memory.buffer, base.value as number, points);
        const before = counters.slice();
        counters.fill(0);
        try {
          return call(...args);
        } finally {
          for (let point = 0; point < points; point++) reached[point]! |= counters[point]!;
          counters.set(before);
        }
      },
    ];
  });
  return Object.fromEntries(wrapped) as WebAssembly.Exports;
}

const { Instance } = WebAssembly;

class CountingInstance extends Instance {
  readonly #exports: WebAssembly.Exports;

  constructor(module: WebAssembly.Module, imports?: WebAssembly.Imports) {
    super(module, imports);
    const memory = imports?.['env']?.['memory'];
    const own = memory instanceof WebAssembly.Memory ? memory : undefined;
    this.#exports = counted(super.exports, own);
  }

  override get exports(): WebAssembly.Exports {
    return this.#exports;
  }
}

if (folder !== undefined) {
  WebAssembly.Instance = CountingInstance;
  afterAll(() => {
    if (reached.length === 0) return;
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `${randomUUID()}.counts`), reached);
  });
}
