import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

interface Point {
  file: string;
  line: number;
  kind: string;
  function: string;
}

/** What scripts/coverage-transform.mjs adds to the engine, and an export to try it with. */
type CoverageExports = {
  coverageBase: WebAssembly.Global<'i32'>;
  coverageCount: WebAssembly.Global<'i32'>;
  regionSize(): number;
};

const read = (name: string) => readFileSync(new URL(`../build/${name}`, import.meta.url));

describe('the coverage build', () => {
  const points = JSON.parse(read('engine.cov.json').toString()) as Point[];
  const memory = new WebAssembly.Memory({ initial: 1 });
  const module = new WebAssembly.Module(Uint8Array.from(read('engine.cov.wasm')));
  const instance = new WebAssembly.Instance(module, { env: { memory } });
  const engine = instance.exports as CoverageExports;
  const base = 1024;
  engine.coverageBase.value = base;
  const counters = new Uint8Array(memory.buffer, base, points.length);

  it('has a point on the map for each counter', () => {
    expect(engine.coverageCount.value).toBe(points.length);
  });

  it('counts what runs, and nothing else', () => {
    counters.fill(0);
    engine.regionSize();
    const hit = points.filter((_, index) => counters[index] === 1);
    expect(new Set(hit.map((point) => point.function))).toEqual(new Set(['regionSize']));
    expect(new Set(hit.map(({ kind }) => kind))).toEqual(new Set(['function', 'statement']));
    expect(counters.filter((count) => count > 1)).toHaveLength(0);
  });

  it('stops counting at 255', () => {
    for (let i = 0; i < 300; i++) engine.regionSize();
    expect(Math.max(...counters)).toBe(255);
  });
});
