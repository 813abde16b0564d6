// The thread of scripts/fuzz.mjs that fuzzes.

import { join } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { FUZZER_URL } from './fuzz.mjs';
import { ROOT } from './paths.mjs';

/** Different failures after which there is something else to do. */
const FAILURES_MAX = 8;
/** Milliseconds between two lines about the progress. */
const STEP_MS = 10_000;

const { Fuzzer, CORPUS_FOLDER, SUBJECTS, loadInputs, nameOf, saveInputs, toLine } = await import(
  FUZZER_URL
);
const { seconds, seed, corpus, minimize, watched } = workerData;
const subject = SUBJECTS[workerData.subject];
const fuzzer = new Fuzzer(seed, subject, new Uint8Array(watched));
const folder = corpus === CORPUS_FOLDER ? join(ROOT, 'build/fuzz') : corpus;
const queue = join(folder, `queue-${subject.name}.txt`);
const kept = join(corpus, subject.corpusFile);
const startedMs = Date.now();
const before = process.cpuUsage();
let reported = 0;

/** @param {string} text */
const say = (text) => parentPort?.postMessage({ text }, []);

function reportFailures() {
  for (const { message, bytes } of fuzzer.failures.slice(reported)) {
    const failure = {
      message,
      line: toLine(bytes),
      name: nameOf(bytes),
      words: subject.describe(bytes),
    };
    parentPort?.postMessage({ failure }, []);
  }
  reported = fuzzer.failures.length;
}

/** What was done, and how fast: per second of processor time, which others do not take part in. */
function sayProgress() {
  const { execs, pumps, inputs, features, points } = fuzzer.progress();
  const { user, system } = process.cpuUsage(before);
  const cpuSeconds = Math.max(1, user + system) / 1e6;
  /** @param {number} count */
  const speed = (count) => Math.round(count / cpuSeconds);
  const found = `${inputs} inputs, ${points} points, ${features} features`;
  const seconds = Math.round((Date.now() - startedMs) / 1000);
  const rate = `${speed(execs)} runs and ${speed(pumps)} pumps a second`;
  say(`${seconds} s: ${execs} runs, ${found}; one CPU does ${rate}`);
}

say(`seed ${seed}`);
say(`${subject.name}:`);
fuzzer.load(loadInputs(kept));
fuzzer.load(loadInputs(queue));
const endMs = startedMs + seconds * 1000;
sayProgress();
while (Date.now() < endMs && fuzzer.failures.length < FAILURES_MAX) {
  fuzzer.fuzz(Math.min(STEP_MS, endMs - Date.now()), FAILURES_MAX);
  sayProgress();
  reportFailures();
}
reportFailures();
saveInputs(queue, fuzzer.inputs());
if (minimize) {
  const inputs = fuzzer.minimize();
  saveInputs(kept, inputs);
  say(`${inputs.length} inputs in ${kept}`);
}
