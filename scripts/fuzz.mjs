// npm run fuzz [-- --seconds N --seed S --only KIND --corpus DIR --minimize]
//
// Coverage-guided fuzzing of the engine (test/fuzz): changes inputs at random and keeps what
// reaches something new in build/engine.cov.wasm, while a host checks every rule it can see. There
// are three kinds of input: requests of the engine's host (engine), programs of a guest and its
// host (guest), which make virtqueues, chains and trouble, and requests to a qcow2 image (qcow2),
// which may be damaged.
//
//   --seconds N    how long in all (60)
//   --seed S       where the random numbers start: the same seed does the same (the time of day)
//   --only KIND    engine, guest or qcow2; else each has a third of the time
//   --corpus DIR   where the inputs are that it starts from (test/corpus/fuzz)
//   --minimize     at the end, writes the smallest set that reaches all of it there
//
// What a run has found is in build/fuzz/queue-KIND.txt for the next one (in DIR, if that is given).
// An input that breaks a rule is shrunk, printed with all that it does, and saved in
// build/fuzz/failures; the exit code is 1.

import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { ROOT } from './paths.mjs';

/** A run takes milliseconds; one that takes this long hangs. */
const HANG_MS = 30_000;
const FAILURES = join(ROOT, 'build/fuzz/failures');
/** The kinds of input (test/fuzz/subject.ts). */
const KINDS = ['engine', 'guest', 'qcow2'];

/** Compiles test/fuzz and what it imports to build/fuzz/js. */
export function compileFuzzer() {
  const args = ['node_modules/typescript/bin/tsc', '-p', 'test/fuzz'];
  return spawnSync(process.execPath, args, { cwd: ROOT, stdio: 'inherit' }).status === 0;
}

/** The compiled fuzzer. */
export const FUZZER_URL = new URL('../build/fuzz/js/test/fuzz/fuzzer.js', import.meta.url).href;
/** The compiled coverage report. */
export const REPORT_URL = new URL('../build/fuzz/js/test/fuzz/report.js', import.meta.url).href;

function options() {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '60' },
      seed: { type: 'string', default: String(Date.now() % 1e9) },
      corpus: { type: 'string', default: join(ROOT, 'test/corpus/fuzz') },
      only: { type: 'string' },
      minimize: { type: 'boolean', default: false },
    },
  });
  const seconds = Number(values.seconds);
  const seed = Number(values.seed);
  if (!(seconds >= 0)) throw new Error(`--seconds takes a number, not ${values.seconds}`);
  if (!Number.isInteger(seed)) throw new Error(`--seed takes a whole number, not ${values.seed}`);
  const { only, minimize } = values;
  if (only !== undefined && !KINDS.includes(only)) {
    throw new Error(`--only takes ${KINDS.join(' or ')}, not ${only}`);
  }
  const kinds = only === undefined ? KINDS : [only];
  const corpus = resolve(values.corpus);
  return { seconds: seconds / kinds.length, seed, corpus, minimize, kinds };
}

/**
 * Prints an input that breaks a rule and saves it.
 * @param {{ message: string, line: string, name: string, words: string[] }} failure
 * @param {number} seed
 * @param {string} bugs the file of the corpus for it
 */
function report({ message, line, name, words }, seed, bugs) {
  const file = join(FAILURES, `${name}.txt`);
  const text = [`# seed ${seed}: ${message}`, ...words.map((word) => `#   ${word}`), line, ''];
  mkdirSync(FAILURES, { recursive: true });
  writeFileSync(file, text.join('\n'));
  console.log(`${text.join('\n')}saved as ${file}; with the fix, into test/corpus/fuzz/${bugs}`);
}

/**
 * Runs the loop in a thread of its own and watches whether it goes on.
 * @param {ReturnType<typeof options>} chosen
 * @param {string} kind
 * @returns {Promise<number>} how many inputs failed
 */
async function run(chosen, kind) {
  const { SUBJECTS, WATCH_BYTES, toLine } = await import(FUZZER_URL);
  const subject = SUBJECTS.findIndex((/** @type {{ name: string }} */ one) => one.name === kind);
  const { bugsFile } = SUBJECTS[subject];
  const watched = new SharedArrayBuffer(WATCH_BYTES);
  const view = new DataView(watched);
  const worker = new Worker(new URL('fuzz-worker.mjs', import.meta.url), {
    workerData: { ...chosen, subject, watched },
  });
  let failures = 0;
  let execs = -1;
  let since = Date.now();
  return new Promise((resolve, reject) => {
    const timer = setInterval(() => {
      if (view.getUint32(0, true) !== execs) since = Date.now();
      execs = view.getUint32(0, true);
      if (Date.now() - since < HANG_MS) return;
      const bytes = Uint8Array.from(new Uint8Array(watched, 8, view.getUint32(4, true)));
      const failure = { message: 'the engine hangs', line: toLine(bytes), name: 'hang', words: [] };
      report(failure, chosen.seed, bugsFile);
      failures += 1;
      void worker.terminate();
    }, 1000);
    worker.on('message', (message) => {
      // What is not an input may take its time.
      since = Date.now();
      if (message.text !== undefined) console.log(message.text);
      if (message.failure === undefined) return;
      failures += 1;
      report(message.failure, chosen.seed, bugsFile);
    });
    worker.on('error', reject);
    worker.on('exit', () => {
      clearInterval(timer);
      resolve(failures);
    });
  });
}

if (import.meta.url === new URL(process.argv[1] ?? '', 'file:').href) {
  try {
    if (!compileFuzzer()) throw new Error('test/fuzz does not compile');
    const chosen = options();
    for (const kind of chosen.kinds) {
      if ((await run(chosen, kind)) > 0) process.exitCode = 1;
    }
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  }
}
