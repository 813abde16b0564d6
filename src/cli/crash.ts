/**
 * `sluice crash`: explores, and says at the end what was found.
 *
 *   read the engine ──▶ explore ──budget used up──▶ kept (0)
 *                          ├──a promise is broken──▶ shrunk, printed (1)
 *                          └──signal──▶ what was done so far (130)
 *
 * C1 The exploring is synchronous work and has a thread of its own, so that signals are heard and
 *    the progress is drawn whatever the engine does. A thread that does not stop soon is ended.
 * C2 stdout has the result and nothing else; the progress is on stderr, on a terminal only.
 * C3 A promise that was found broken is reported also when a signal came meanwhile.
 */
import { randomInt } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { Worker } from 'node:worker_threads';
import { CommanderError } from 'commander';
import { missingExports } from '../engine.ts';
import type { ExploreOptions, ExploreProgress, ExploreResult } from '../testing/explore.ts';
import type { CrashOptions } from './crash-command.ts';
import { type CrashReport, humanReport, jsonReport, progressTexts } from './crash-report.ts';
import type { CrashMessage } from './crash-worker.ts';
import { writeResult } from './output.ts';
import { Refusal } from './refusal.ts';
import { stopRequested } from './stop.ts';
import type { Terminal } from './terminal.ts';

const REDRAW_MS = 500;
/** How long the thread may take to stop, as for shrinking what it has found. */
const STOP_MS = 5000;
const SEEDS = 2 ** 32;
const EXIT_BROKEN = 1;
/** 128 + SIGINT, as a shell reports it. */
const EXIT_INTERRUPTED = 130;
const NOTHING: ExploreProgress = {
  states: 0,
  streams: 0,
  steps: 0,
  survivors: 0,
  kills: 0,
  phase: '',
};

/** Explores; resolves when every promise was kept, rejects with the exit code otherwise. */
export async function crash(options: CrashOptions, terminal: Terminal): Promise<void> {
  const seed = options.seed ?? randomInt(SEEDS);
  const { states, requests, exhaustive, faults, engine } = options;
  const explorer = new Explorer({
    seed,
    states,
    exhaustive: exhaustive === true,
    ...(requests === undefined ? {} : { requests, exhaustiveRequests: requests }),
    ...(faults === undefined ? {} : { faults }),
    ...(engine === undefined ? {} : { module: await readEngine(engine) }),
  });
  const draw = (): void =>
    terminal.status(progressTexts(explorer.progress, states, explorer.seconds));
  const drawing = terminal.interactive ? setInterval(draw, REDRAW_MS) : undefined;
  let stopped = false;
  void stopRequested({ giveUp: () => terminal.error('gave up: the result is lost') }).then(() => {
    stopped = true;
    clearInterval(drawing);
    terminal.status(['Stopping. Ctrl-C gives up.']);
    explorer.stop();
  });
  let result: ExploreResult;
  try {
    result = await explorer.result;
  } finally {
    clearInterval(drawing);
    await terminal.clear();
  }
  const report: CrashReport = { options, seed, result, stopped };
  await writeResult(options.output === 'json' ? jsonReport(report) : humanReport(report));
  if (result.failure !== undefined) {
    throw new CommanderError(EXIT_BROKEN, 'sluice.crash', 'a promise is broken');
  }
  if (stopped) throw new CommanderError(EXIT_INTERRUPTED, 'sluice.crash', 'stopped');
}

/** An exploration on its thread (C1). */
class Explorer {
  /** Rejects with what the explorer threw. */
  readonly result: Promise<ExploreResult>;
  progress = NOTHING;
  readonly #started = performance.now();
  readonly #worker: Worker;
  #giveUp: (result: ExploreResult) => void = () => undefined;

  constructor(options: ExploreOptions) {
    this.#worker = new Worker(new URL('./crash-worker.js', import.meta.url), {
      workerData: options,
    });
    this.result = new Promise((resolve, reject) => {
      this.#giveUp = resolve;
      this.#worker.on('error', reject);
      this.#worker.on('message', (message: CrashMessage) => {
        if (message.kind === 'progress') this.progress = message.progress;
        else if (message.kind === 'result') resolve(message.result);
        else reject(Object.assign(new Error(message.error.message), message.error));
      });
    });
  }

  get seconds(): number {
    return (performance.now() - this.#started) / 1000;
  }

  /** Asks for the result of what was done; a thread that does not answer is ended. */
  stop(): void {
    this.#worker.postMessage('stop', []);
    setTimeout(() => {
      this.#giveUp({ ...this.progress, seconds: this.seconds });
    }, STOP_MS);
  }
}

/** A build of the engine from a file. */
async function readEngine(path: string): Promise<WebAssembly.Module> {
  const bytes = await readFile(path).catch((cause: unknown) => {
    throw new Refusal(`read the engine ${JSON.stringify(path)}`, cause);
  });
  const module = await WebAssembly.compile(Uint8Array.from(bytes)).catch((cause: unknown) => {
    throw notAnEngine(path, `it is not WebAssembly: ${(cause as Error).message}`);
  });
  const missing = missingExports(module);
  if (missing.length > 0) throw notAnEngine(path, `it does not export ${missing.join(', ')}`);
  return module;
}

function notAnEngine(path: string, why: string): Refusal {
  const cause = Object.assign(new Error(why), { code: 'ERR_SLUICE_INVALID_ARGUMENT' });
  return new Refusal(`use ${JSON.stringify(path)} as the engine`, cause);
}
