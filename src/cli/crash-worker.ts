/**
 * The thread in which `sluice crash` explores. Exploring is synchronous work, and a broken engine
 * may not come back from a call: on a thread of its own it can be ended all the same.
 */
import { parentPort, workerData } from 'node:worker_threads';
import {
  type ExploreOptions,
  type ExploreProgress,
  type ExploreResult,
  exploreSteps,
} from '../testing/explore.ts';

/** What the thread says. Any message to it means: stop, and say what was done. */
export type CrashMessage =
  | { readonly kind: 'progress'; readonly progress: ExploreProgress }
  | { readonly kind: 'result'; readonly result: ExploreResult }
  | { readonly kind: 'error'; readonly error: ErrorParts };

/** What is left of an error on the way to another thread. */
export interface ErrorParts {
  readonly message: string;
  readonly stack?: string;
  readonly code?: string;
}

async function explore(say: (message: CrashMessage) => void): Promise<void> {
  const stop = new AbortController();
  parentPort?.once('message', () => stop.abort());
  try {
    const steps = exploreSteps({ ...(workerData as ExploreOptions), signal: stop.signal });
    for (;;) {
      const { done, value } = steps.next();
      if (done === true) {
        say({ kind: 'result', result: value });
        return;
      }
      say({ kind: 'progress', progress: value });
      // Messages are heard between two turns of the event loop.
      await new Promise((resolve) => {
        setImmediate(resolve);
      });
    }
  } catch (error) {
    const { message, stack, code } = error as NodeJS.ErrnoException;
    const parts: ErrorParts = {
      message,
      ...(stack === undefined ? {} : { stack }),
      ...(code === undefined ? {} : { code }),
    };
    say({ kind: 'error', error: parts });
  } finally {
    parentPort?.close();
  }
}

await explore((message) => parentPort?.postMessage(message, []));
