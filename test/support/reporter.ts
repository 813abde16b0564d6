/**
 * The end of a run: the files that took longest, every skipped test with its reason, then
 * `N passed, N failed, N skipped`.
 *
 * When SLUICE_TEST_COUNTS names a file, the counts go there instead: scripts/test.mjs adds its own
 * checks and prints the line.
 */

import { writeFileSync } from 'node:fs';
import type { Reporter, TestCase, TestModule, TestSuite } from 'vitest/node';

const SLOWEST = 25;

export default class CountingReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 };
    const skips: string[] = [];
    for (const module of modules) {
      // A file or a suite fails by itself when its code or its hooks throw.
      const suites = [module, ...module.children.allSuites()];
      counts.failed += suites.filter((suite) => suite.errors().length > 0).length;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        if (state === 'passed') counts.passed++;
        else if (state === 'failed') counts.failed++;
        else counts.skipped++;
        if (state === 'skipped') {
          skips.push(`${module.relativeModuleId}: ${test.fullName}: ${skipReason(test)}`);
        }
      }
    }
    for (const line of slowest(modules)) console.log(line);
    for (const skip of skips) console.log(`skipped: ${skip}`);
    const countsFile = process.env['SLUICE_TEST_COUNTS'];
    if (countsFile !== undefined) writeFileSync(countsFile, JSON.stringify(counts));
    else console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
  }
}

/** The files to look at when a run of many takes too long. */
function slowest(modules: readonly TestModule[]): string[] {
  if (modules.length <= SLOWEST) return [];
  return modules
    .map((module) => ({ name: module.relativeModuleId, ms: module.diagnostic().duration }))
    .toSorted((a, b) => b.ms - a.ms)
    .slice(0, SLOWEST)
    .map(({ name, ms }) => `${(ms / 1000).toFixed(1).padStart(6)} s  ${name}`);
}

/** What was given to `context.skip`, or to the test or a suite around it as `meta.skipReason`. */
function skipReason(test: TestCase): string {
  const result = test.result();
  if (result.state === 'skipped' && result.note !== undefined) return result.note;
  let node: TestCase | TestSuite | TestModule = test;
  while (node.type !== 'module') {
    const reason = node.meta().skipReason;
    if (reason !== undefined) return reason;
    node = node.parent;
  }
  return 'not run';
}
