// The loop of the fuzzer itself: that it finds, repeats and forgets nothing.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ROOT } from '../../bench/root.ts';
import { CORPUS_FILE, loadInputs, saveInputs } from './corpus.ts';
import { Fuzzer } from './fuzzer.ts';
import { toLine } from './input.ts';
import { GUEST, SUBJECTS } from './subject.ts';

const ROUNDS = 12;

function fuzzed(seed: number): Fuzzer {
  const fuzzer = new Fuzzer(seed);
  for (let round = 0; round < ROUNDS; round++) fuzzer.round();
  return fuzzer;
}

describe('the fuzzer', () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-fuzz-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const fuzzer = fuzzed(1);
  const { points, features } = fuzzer.progress();

  it('reaches most of the engine from nothing', () => {
    expect(points).toBeGreaterThan(1000);
    expect(features).toBeGreaterThan(4 * points);
  });

  it('reaches most of the rings from nothing, as a guest', () => {
    const guest = new Fuzzer(1, GUEST);
    for (let round = 0; round < ROUNDS; round++) guest.round();
    expect(guest.progress().points).toBeGreaterThan(700);
  });

  it('does the same again with the same seed, and something else with another one', () => {
    expect(fuzzed(1).inputs()).toEqual(fuzzer.inputs());
    expect(fuzzed(2).inputs()).not.toEqual(fuzzer.inputs());
  });

  it('minimizes to fewer inputs that reach all the same, in a file as in memory', () => {
    const kept = fuzzer.minimize();
    expect(kept.length).toBeLessThan(fuzzer.inputs().length);
    const file = join(folder, CORPUS_FILE);
    saveInputs(file, kept);
    const again = new Fuzzer(3);
    again.load(loadInputs(file));
    expect(again.progress().features).toBeGreaterThanOrEqual(features);
    expect(loadInputs(file).map((bytes) => toLine(bytes))).toEqual(
      kept.map((bytes) => toLine(bytes)).sort(),
    );
  });

  it('has a command line that says how far it is and keeps the corpus', () => {
    const args = ['scripts/fuzz.mjs', '--seconds', '0', '--seed', '5', '--corpus', folder];
    const { status, stdout, stderr } = spawnSync(process.execPath, [...args, '--minimize'], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain('seed 5\n');
    expect(stdout).toMatch(/\d+ runs, \d+ inputs, \d+ points/);
    for (const { corpusFile } of SUBJECTS) {
      expect(readFileSync(join(folder, corpusFile), 'utf8')).toContain('npm run fuzz');
    }
  });
});
