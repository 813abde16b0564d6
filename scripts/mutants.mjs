// Can the engine tests fail? Each mutant is the engine with one promise broken; the tests of its
// folder, test/engine, test/ring or test/testing/qcow2-engine, must kill every one. Run it after
// changing assembly/ or those tests.
//
//   node scripts/mutants.mjs [--explore] [--only PART OF A FOLDER] [PART OF A NAME ...]
//
// With --explore the crash explorer looks for those that it must find, instead of the tests, and a
// line says after how many crash states it did, and the shortest stream that shows the mutant.
//
// Prints a line for each mutant: killed or SURVIVED, by how many tests, the first of them, and how
// long it took. The exit code is 1 when a mutant survives, or when the text that a mutant replaces
// no longer stands exactly once in its file: then mutants/ must follow the engine.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { MUTANTS } from './mutants/list.mjs';
import { compileWith, mutate } from './mutants/mutant.mjs';
import { ROOT } from './paths.mjs';

/** A mutant may loop for ever: a test run that takes this long has noticed. */
const HANG_MS = 180_000;
/** Explorations take long, on a busy machine longer: the first test that fails is enough. */
const SLOW = 'test/testing/qcow2-engine';
const SLOW_HANG_MS = 900_000;

/** @typedef {import('./mutants/mutant.mjs').Mutant} Mutant */

/**
 * @typedef {object} TestRun
 * @property {string[]} failed names of the tests that failed
 * @property {number} passed
 * @property {boolean} crashed the tests did not get to an end
 */

/**
 * Runs the engine tests of a folder on a build.
 * @param {string} folder
 * @param {string} wasm
 * @param {string} report
 * @returns {Promise<TestRun>}
 */
async function runTests(folder, wasm, report) {
  rmSync(report, { force: true });
  const isSlow = folder === SLOW;
  const bail = isSlow ? ['--bail', '1'] : [];
  const args = ['run', folder, ...bail, '--maxWorkers', '1', '--reporter', 'json'];
  const child = spawn(
    process.execPath,
    ['node_modules/vitest/vitest.mjs', ...args, '--outputFile', report],
    {
      cwd: ROOT,
      env: { ...process.env, SLUICE_ENGINE_WASM: wasm },
      stdio: ['ignore', 'ignore', 'pipe'],
      detached: true,
    },
  );
  const timer = setTimeout(
    () => process.kill(-Number(child.pid), 'SIGKILL'),
    isSlow ? SLOW_HANG_MS : HANG_MS,
  );
  await Promise.all([text(child.stderr), once(child, 'close')]);
  clearTimeout(timer);
  return readReport(report);
}

/**
 * @param {string} report
 * @returns {TestRun}
 */
function readReport(report) {
  try {
    const { testResults } = JSON.parse(readFileSync(report, 'utf8'));
    const tests = testResults.flatMap((/** @type {any} */ file) => file.assertionResults);
    const names = (/** @type {string} */ status) =>
      tests
        .filter((/** @type {any} */ test) => test.status === status)
        .map((/** @type {any} */ test) => test.title);
    // A file that fails as a whole has no failed test in it.
    const crashed = testResults.some(
      (/** @type {any} */ file) => file.status === 'failed' && file.assertionResults.length === 0,
    );
    return { failed: names('failed'), passed: names('passed').length, crashed };
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
    return { failed: [], passed: 0, crashed: true };
  }
}

/**
 * The test to name: one of the invariant that the mutant breaks, if there is one.
 * @param {string} name
 * @param {string[]} failed
 */
function witness(name, failed) {
  const invariant = name.slice(0, name.indexOf(':'));
  const own = failed.find((title) => {
    const [names = ''] = title.match(/^[A-Z]\d+(, [A-Z]\d+)*/) ?? [];
    return names.split(', ').includes(invariant);
  });
  return own ?? failed[0] ?? 'no end in time';
}

/** @param {readonly Mutant[]} mutants */
async function run(mutants) {
  const changes = mutants.map((mutant) => ({ ...mutant, sources: mutate(mutant) }));
  const scratch = mkdtempSync(join(tmpdir(), 'sluice-mutants-'));
  const wasm = join(scratch, 'engine.wasm');
  const report = join(scratch, 'report.json');
  try {
    writeFileSync(wasm, await compileWith(new Map()));
    for (const folder of new Set(mutants.map(({ tests }) => tests))) {
      const healthy = await runTests(folder, wasm, report);
      if (healthy.crashed || healthy.failed.length > 0) {
        const failed = healthy.failed.join('\n');
        throw new Error(`the tests must pass on the engine as it is: ${failed}`);
      }
      console.log(`as it is: ${healthy.passed} tests of ${folder} pass`);
    }
    let survivors = 0;
    for (const { name, tests, sources } of changes) {
      writeFileSync(wasm, await compileWith(sources));
      const started = Date.now();
      const { failed, crashed } = await runTests(tests, wasm, report);
      const seconds = ((Date.now() - started) / 1000).toFixed(1);
      const killed = crashed || failed.length > 0;
      if (!killed) survivors += 1;
      const by = killed ? `killed by ${failed.length}: ${witness(name, failed)}` : 'SURVIVED';
      console.log(`${name}: ${by} (${seconds} s)`);
    }
    console.log(`${changes.length - survivors} killed, ${survivors} survived`);
    return survivors;
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

/**
 * The same with the crash explorer.
 * @param {readonly Mutant[]} mutants
 */
async function explore(mutants) {
  const scratch = mkdtempSync(join(tmpdir(), 'sluice-mutants-'));
  const wasm = join(scratch, 'engine.wasm');
  try {
    let survivors = 0;
    for (const mutant of mutants) {
      writeFileSync(wasm, await compileWith(mutate(mutant)));
      const { states, failure } = await crash(wasm);
      if (failure === null) survivors += 1;
      const how =
        failure === null
          ? `SURVIVED ${states} states`
          : `${failure.rule} after ${states} states: ${failure.stream.join('; ')}`;
      console.log(`${mutant.name}: ${how}`);
    }
    console.log(`${mutants.length - survivors} of ${mutants.length} found`);
    return survivors;
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

/**
 * What `sluice crash` says of an engine.
 * @param {string} wasm
 * @returns {Promise<{ states: number, failure: null | { rule: string, stream: string[] } }>}
 */
async function crash(wasm) {
  const args = ['crash', '--engine', wasm, '--seed', '1', '--output', 'json'];
  const child = spawn(process.execPath, [join(ROOT, 'dist/bin.cjs'), ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: HANG_MS,
  });
  return JSON.parse(await text(child.stdout));
}

try {
  const args = process.argv.slice(2);
  const explores = args.includes('--explore');
  const at = args.indexOf('--only');
  const [folder = ''] = at < 0 ? [] : args.splice(at, 2).slice(1);
  const parts = args.filter((arg) => arg !== '--explore');
  const chosen = MUTANTS.filter(
    ({ name, explored, tests }) =>
      (explored || !explores) &&
      tests.includes(folder) &&
      (parts.length === 0 || parts.some((part) => name.includes(part))),
  );
  if ((await (explores ? explore(chosen) : run(chosen))) > 0) process.exitCode = 1;
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
