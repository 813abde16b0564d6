/**
 * The crash explorer: it runs the engine over streams of requests, forks at every step, and lets
 * the disk answer in every order, fail, lose power or its process. At each step it asks whether
 * what a power cut could leave keeps the promises that were made.
 */
import { exploration } from './exploration.ts';
import type { ExploreOptions, ExploreProgress, ExploreResult } from './explore-types.ts';

export * from './explore-types.ts';

/**
 * Explores until the budget is used up, a promise is found broken, or the signal is given.
 *
 * The same options give the same result, `seconds` excepted. With one thread and small streams it
 * looks at tens of thousands of crash states each second.
 *
 * @throws {SluiceError} ERR_SLUICE_INVALID_ARGUMENT when an option makes no sense
 */
export function explore(options: ExploreOptions = {}): ExploreResult {
  const steps = exploreSteps(options);
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
    options.onProgress?.(value);
  }
}

/** The same as `explore`, and the event loop runs in between: a signal is heard. */
export async function exploreAsync(options: ExploreOptions = {}): Promise<ExploreResult> {
  const steps = exploreSteps(options);
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
    options.onProgress?.(value);
    await new Promise((resolve) => {
      setTimeout(resolve, 0);
    });
  }
}

/** The same in pieces of some milliseconds, for who wants to draw in between. */
export function* exploreSteps(
  options: ExploreOptions = {},
): Generator<ExploreProgress, ExploreResult> {
  return yield* exploration(options);
}
