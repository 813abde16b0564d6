import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  addReach,
  complaintsOf,
  corpusReach,
  isBranch,
  loadAllowed,
  reportOf,
} from './fuzz/report.ts';
import { loadPoints } from './fuzz/points.ts';

/** What scripts/coverage-transform.mjs adds to the engine, and an export to try it with. */
type CoverageExports = {
  coverageBase: WebAssembly.Global<'i32'>;
  coverageCount: WebAssembly.Global<'i32'>;
  regionSize(): number;
};

const read = (name: string) => readFileSync(new URL(`../build/${name}`, import.meta.url));

describe('the coverage build', () => {
  const points = loadPoints();
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

  it('leaves out what only debug builds contain', () => {
    expect(points.filter(({ file }) => file === 'assembly/verify.ts')).toEqual([]);
    const lines = readFileSync(new URL('../assembly/request/slot.ts', import.meta.url), 'utf8');
    const checks = lines
      .split('\n')
      .flatMap((text, at) => (text.includes('VERIFY)') ? [at + 1] : []));
    expect(checks.length).toBeGreaterThan(0);
    const counted = points.filter(({ file }) => file === 'assembly/request/slot.ts');
    expect(counted.filter(({ line }) => checks.includes(line))).toEqual([]);
  });
});

describe('the corpus of the fuzzer', () => {
  const points = loadPoints();
  const allowed = loadAllowed();
  const reached = corpusReach(points);

  it('reaches 95 % of the branches of the engine by itself, and all that are not excused', () => {
    expect(complaintsOf(reportOf(points, reached, allowed), 0.95)).toEqual([]);
  });

  it('would be too small if it reached less, and the list too long if it reached more', () => {
    const branch = points.findIndex((point, index) => isBranch(point) && reached[index] !== 0);
    const less = reached.slice();
    less[branch] = 0;
    const [complaint] = complaintsOf(reportOf(points, less, allowed), 0.95);
    expect(complaint).toContain(`${points[branch]!.file}:${points[branch]!.line}:`);
    expect(complaintsOf(reportOf(points, new Uint8Array(points.length), []), 0.95)[0]).toContain(
      'are fewer than 95 %',
    );
    const more = reached.slice();
    addReach(
      more,
      Uint8Array.from({ length: points.length }, () => 1),
    );
    expect(complaintsOf(reportOf(points, more, allowed), 0.95)).toHaveLength(allowed.length);
  });
});
