// npm run coverage [-- --corpus-only]
//
// What of the engine's sources (assembly/) the fuzzer's corpus and the engine's tests reach,
// counted by build/engine.cov.wasm: a table of statements and branches for each file, then every
// point that nothing reaches. A branch is an arm of an `if` (also of one without `else`) or of a
// `?:`, a `case`, the right operand of && and ||, the body of a loop. What only debug builds
// contain is not counted (coverage-transform.mjs).
//
//   --corpus-only   without the tests
//
// The exit code is 1 when a test fails, when fewer than 95 % of the branches are reached, when an
// unreached one is not in test/corpus/coverage-allowed.json, or when one that is in it is reached.

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { compileFuzzer, REPORT_URL } from './fuzz.mjs';
import { ROOT } from './paths.mjs';

const LEAST = 0.95;
const COUNTS = join(ROOT, 'build/coverage');
/** Tests of the engine; those of the kernels run a module of their own. */
const TESTS = ['test/engine'];

/** Runs the engine's tests on the coverage build; true when they pass. */
function runTests() {
  rmSync(COUNTS, { recursive: true, force: true });
  const config = ['--config', 'test/support/coverage.config.ts', '--root', '.'];
  const { status } = spawnSync(
    process.execPath,
    ['node_modules/vitest/vitest.mjs', 'run', ...config, ...TESTS],
    {
      cwd: ROOT,
      stdio: ['ignore', 2, 2],
      env: {
        ...process.env,
        SLUICE_ENGINE_WASM: join(ROOT, 'build/engine.cov.wasm'),
        SLUICE_COVERAGE: COUNTS,
      },
    },
  );
  return status === 0;
}

/** What the processes of the tests have written. */
function testReaches() {
  if (!existsSync(COUNTS)) return [];
  return readdirSync(COUNTS).map((name) => new Uint8Array(readFileSync(join(COUNTS, name))));
}

/**
 * @param {number} reached
 * @param {number} all
 */
function share(reached, all) {
  const percent = all === 0 ? 100 : (reached / all) * 100;
  const counts = `${String(reached).padStart(5)} /${String(all).padStart(5)}`;
  return `${counts} ${percent.toFixed(1).padStart(6)} %`;
}

/** @typedef {import('../test/fuzz/report.ts').Row} Row */
/** @typedef {import('../test/fuzz/report.ts').Report} Report */

/** @param {Report} report */
function print({ rows, total, unreached }) {
  console.log(`${''.padEnd(34)}${'statements'.padStart(20)}${'branches'.padStart(24)}`);
  for (const row of [...rows, total]) {
    const statements = share(row.statementsReached, row.statements);
    const branches = share(row.branchesReached, row.branches);
    console.log(`${row.file.padEnd(34)}${statements}   ${branches}`);
  }
  for (const { file, line, column, kind, text, reason } of unreached) {
    const why = reason === undefined ? '' : `  (${reason})`;
    console.log(`not reached: ${file}:${line}:${column} ${kind}: ${text}${why}`);
  }
}

/** @param {boolean} corpusOnly */
async function main(corpusOnly) {
  if (!compileFuzzer()) return false;
  const { addReach, complaintsOf, corpusReach, loadAllowed, loadPoints, reportOf } = await import(
    REPORT_URL
  );
  const passed = corpusOnly || runTests();
  const points = loadPoints();
  const reached = corpusReach(points);
  if (!corpusOnly) for (const run of testReaches()) addReach(reached, run);
  const report = reportOf(points, reached, loadAllowed());
  print(report);
  const complaints = complaintsOf(report, LEAST);
  if (!passed) complaints.push('a test fails on the coverage build');
  for (const complaint of complaints) console.error(complaint);
  return complaints.length === 0;
}

const { values } = parseArgs({ options: { 'corpus-only': { type: 'boolean', default: false } } });
if (!(await main(values['corpus-only']))) process.exitCode = 1;
