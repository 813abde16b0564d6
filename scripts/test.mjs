// npm test: everything that is checked, from a fresh clone.
//
//   npm test [-- ARGS FOR VITEST]
//
// Type check, lint and format count as one test each. The last line is always
// `N passed, N failed, N skipped`; the exit code is 1 when anything failed.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fetchGuests } from './guests.mjs';
import { installPeers } from './install-peers.mjs';
import { ROOT } from './paths.mjs';
import { prepare } from './prepare.mjs';

const CHECKS = ['typecheck', 'lint', 'format:check'];
const COUNTS_FILE = join(ROOT, 'build/test-counts.json');

const totals = { passed: 0, failed: 0, skipped: 0 };

/** @param {string} script */
async function check(script) {
  const child = spawn('npm', ['run', '--silent', script], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [output, errors, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ]);
  if (code === 0) {
    totals.passed++;
    console.log(`${script} passed`);
  } else {
    totals.failed++;
    console.log(`${output}${errors}${script} FAILED`);
  }
}

/** @param {string[]} args */
async function vitest(args) {
  rmSync(COUNTS_FILE, { force: true });
  const child = spawn(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', ...args], {
    cwd: ROOT,
    stdio: 'inherit',
    env: { ...process.env, SLUICE_TEST_COUNTS: COUNTS_FILE },
  });
  const [code] = await once(child, 'close');
  // Without counts vitest did not get as far as running tests.
  const counts = existsSync(COUNTS_FILE)
    ? JSON.parse(readFileSync(COUNTS_FILE, 'utf8'))
    : { passed: 0, failed: 1, skipped: 0 };
  totals.passed += counts.passed;
  totals.failed += code === 0 ? counts.failed : Math.max(counts.failed, 1);
  totals.skipped += counts.skipped;
}

if (prepare()) {
  await Promise.all(CHECKS.map((script) => check(script)));
  installPeers();
  fetchGuests();
  await vitest(process.argv.slice(2));
} else {
  totals.failed++;
}
process.exitCode = totals.failed > 0 ? 1 : 0;
console.log(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
