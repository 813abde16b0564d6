#!/usr/bin/env node
/**
 * The `sluice` executable. CommonJS, because what it does must come before any ES module is read:
 * libuv looks at UV_THREADPOOL_SIZE once, when its pool is first used, and the loader of ES modules
 * uses it.
 */

/** Syncs, O_DIRECT and O_DSYNC calls block a thread each; libuv's own default is 4. */
const POOL_THREADS = '16';
const OLDEST_NODE = [20, 19] as const;

function isTooOld(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major < OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor < OLDEST_NODE[1]);
}

function run(): void {
  if (isTooOld(process.versions.node)) {
    const wanted = OLDEST_NODE.join('.');
    process.stderr.write(`sluice: needs Node ${wanted} or newer, not ${process.versions.node}\n`);
    process.exitCode = 1;
    return;
  }
  process.env['UV_THREADPOOL_SIZE'] ||= POOL_THREADS;
  void import('./cli/main.ts').then(({ main }) => main(process.argv));
}

run();
