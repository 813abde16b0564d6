// Builds the package: the engine in four flavours (asconfig.json), src/engine-wasm.ts with the
// release builds inlined, and dist/. What is newer than its inputs is left alone.
//
//   node scripts/build.mjs [--force]
//
// Progress goes to stderr. The exit code is 1 when something does not compile or the release
// builds break their promises (wasm-promises.mjs).

import { spawn } from 'node:child_process';
import { chmod, copyFile, mkdir, readFile, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { main as asc } from 'assemblyscript/asc';
import { bundleCli } from './bundle-cli.mjs';
import { ROOT, isFresh } from './paths.mjs';
import { brokenPromises } from './wasm-promises.mjs';

/** Target of asconfig.json -> what it writes. */
const FLAVOURS = {
  release: ['build/engine.wasm', 'build/engine.wat'],
  shared: ['build/engine.shared.wasm'],
  debug: ['build/engine.debug.wasm'],
  coverage: ['build/engine.cov.wasm', 'build/engine.cov.json'],
};
const ENGINE_INPUTS = [
  'assembly',
  'src/abi',
  'asconfig.json',
  'package-lock.json',
  'scripts/build.mjs',
  'scripts/coverage-transform.mjs',
];

const INLINED_ENGINE = 'src/engine-wasm.ts';
const INLINED_BUILDS = ['build/engine.wasm', 'build/engine.shared.wasm'];
const DIST_INPUTS = [
  'src',
  'build/engine.wasm',
  'build/engine.shared.wasm',
  'package-lock.json',
  'scripts/build.mjs',
  'scripts/bundle-cli.mjs',
  'tsconfig.json',
  'tsconfig.build.json',
];
/** Written last: dist/ is complete when it is there, and fresh when it is newer than the inputs. */
const DIST_STAMP = 'build/dist.stamp';
const SHIPPED_ENGINES = ['engine.wasm', 'engine.shared.wasm'];
const EXECUTABLE = 'bin.cjs';

/** A failure whose message is all there is to say: no stack trace. */
class BuildError extends Error {}

/**
 * Compiles one flavour unless it is fresh.
 * @param {keyof typeof FLAVOURS} flavour
 * @param {boolean} force
 */
async function compile(flavour, force) {
  if (!force && isFresh(FLAVOURS[flavour], ENGINE_INPUTS)) return;
  const started = new Date();
  const { stderr } = process;
  const { error } = await asc(['--baseDir', ROOT, '--target', flavour], { stdout: stderr, stderr });
  if (error !== null) throw new BuildError(`asc: ${error.message} (${flavour})`);
  await finish(`engine (${flavour})`, FLAVOURS[flavour], started);
}

/** @param {string} file */
async function checkPromises(file) {
  const broken = brokenPromises(new Uint8Array(await readFile(join(ROOT, file))));
  if (broken.length > 0) throw new BuildError(`${file} ${broken.join(', ')}`);
}

async function inlineEngine() {
  const [plain, shared] = await Promise.all(
    INLINED_BUILDS.map((file) => readFile(join(ROOT, file))),
  );
  const lines = [
    '// Written by scripts/build.mjs: the release builds of assembly/.',
    '',
    '/** The engine, a WebAssembly module, in base64. */',
    `export const ENGINE_WASM_BASE64: string =\n  '${plain?.toString('base64')}';`,
    '',
    '/** The same for memories that threads share. */',
    `export const ENGINE_SHARED_WASM_BASE64: string =\n  '${shared?.toString('base64')}';`,
  ];
  await writeFile(join(ROOT, INLINED_ENGINE), `${lines.join('\n')}\n`);
}

/** Emits dist/ and removes what earlier builds left there. */
async function emitDist() {
  const started = new Date();
  const emitted = await runTsc();
  for (const name of SHIPPED_ENGINES) {
    await copyFile(join(ROOT, 'build', name), join(ROOT, 'dist', name));
  }
  const kept = new Set([...emitted, ...SHIPPED_ENGINES.map((name) => join(ROOT, 'dist', name))]);
  for (const entry of await readdir(join(ROOT, 'dist'), { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name);
    if (entry.isFile() && !kept.has(file)) await rm(file);
  }
  await bundleCli();
  const executable = join(ROOT, 'dist', EXECUTABLE);
  if (kept.has(executable)) await chmod(executable, 0o755);
  await writeFile(join(ROOT, DIST_STAMP), '');
  await finish('dist', [DIST_STAMP], started);
}

/** The files that tsc wrote. */
async function runTsc() {
  const bin = join(ROOT, 'node_modules/typescript/bin/tsc');
  const args = [bin, '-p', 'tsconfig.build.json', '--listEmittedFiles', '--pretty', 'false'];
  const tsc = spawn(process.execPath, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] });
  const [output, [code]] = await Promise.all([text(tsc.stdout), once(tsc, 'close')]);
  const lines = output.split('\n').filter((line) => line !== '');
  const prefix = 'TSFILE: ';
  const messages = lines.filter((line) => !line.startsWith(prefix));
  if (code !== 0) throw new BuildError(`${messages.join('\n')}\ntsc: src does not compile`);
  return lines.map((line) => line.slice(prefix.length));
}

/**
 * Dates the outputs back to when their inputs were read: an edit during the build is not lost.
 * @param {string} what
 * @param {string[]} outputs
 * @param {Date} started
 */
async function finish(what, outputs, started) {
  for (const file of outputs) await utimes(join(ROOT, file), started, started);
  const seconds = (Date.now() - started.getTime()) / 1000;
  process.stderr.write(`build: ${what} ${seconds.toFixed(1)} s\n`);
}

/** @param {boolean} force */
async function build(force) {
  await mkdir(join(ROOT, 'build'), { recursive: true });
  await compile('release', force);
  await compile('shared', force);
  await checkPromises('build/engine.wasm');
  await checkPromises('build/engine.shared.wasm');
  if (force || !isFresh([INLINED_ENGINE], INLINED_BUILDS)) await inlineEngine();
  // asc has this thread to itself while tsc runs in its own process.
  const stale = force || !isFresh([DIST_STAMP], DIST_INPUTS);
  await Promise.all([stale ? emitDist() : undefined, compileForTests(force)]);
}

/** @param {boolean} force */
async function compileForTests(force) {
  await compile('debug', force);
  await compile('coverage', force);
}

try {
  await build(process.argv.includes('--force'));
} catch (error) {
  if (!(error instanceof BuildError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
