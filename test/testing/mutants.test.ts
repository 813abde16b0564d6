/**
 * Can the crash explorer fail? Each mutant is the engine with one promise broken; the explorer must
 * find a stream that shows it, within the budget that it has for the engine itself. It runs as
 * `sluice crash --engine`, in a process of its own, since a mutant may never return.
 */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MUTANTS } from '../../scripts/mutants/list.mjs';
import { compileWith, mutate } from '../../scripts/mutants/mutant.mjs';
import { Folder, sluice } from '../cli/sluice.ts';
import { CI_SEED, CI_STATES } from './budget.ts';

const EXPLORED = MUTANTS.filter((mutant) => mutant.explored);
const BY_NAME = EXPLORED.map((mutant) => [mutant.name, mutant] as const);
const PATIENCE_MS = 300_000;

/** What `sluice crash --output json` says of an engine with some of its sources changed. */
async function explored(sources: ReadonlyMap<string, string>): Promise<Record<string, unknown>> {
  await using folder = await Folder.make();
  const engine = join(folder.path, 'engine.wasm');
  writeFileSync(engine, await compileWith(sources));
  const budget = ['--seed', String(CI_SEED), '--states', String(CI_STATES)];
  const { stdout } = await sluice(['crash', '--engine', engine, ...budget, '--output', 'json']);
  return JSON.parse(stdout) as Record<string, unknown>;
}

describe('every mutant', () => {
  it.each(MUTANTS.map((mutant) => [mutant.name, mutant] as const))('fits: %s', (_, mutant) => {
    expect([...mutate(mutant).keys()].length).toBeGreaterThan(0);
  });

  it('has a name of its own', () => {
    const names = MUTANTS.map(({ name }) => name);
    expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
  });
});

describe('the crash explorer', { timeout: PATIENCE_MS }, () => {
  it('finds nothing in the engine as it is, compiled in the same way', async () => {
    expect(await explored(new Map())).toMatchObject({ result: 'kept', failure: null });
  });

  it('is asked for every mutant that durability 9 names, and for more', () => {
    expect(EXPLORED.length).toBeGreaterThan(60);
  });

  it.concurrent.each(BY_NAME)('finds %s', async (_, mutant) => {
    const { result, failure } = await explored(mutate(mutant));
    expect(result).toBe('broken');
    expect(failure).toMatchObject({ stream: expect.any(Array) as unknown });
  });
});
