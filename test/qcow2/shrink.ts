/** Makes a stream that fails as short as it can be. */

import type { Made } from './oracle.ts';
import { Failure, run } from './runner.ts';
import type { Stream } from './stream.ts';

const PATIENCE_MS = 60_000;
const ATTEMPTS = 2;

/** What is wrong, and the shortest stream that was found in half a minute, as text. */
export async function shrink(
  made: Made,
  stream: Stream,
  failure: Failure,
  module: WebAssembly.Module,
): Promise<string> {
  const end = Date.now() + PATIENCE_MS;
  let last = failure;
  let steps = stream.steps.slice(0, failure.step + 1);
  for (let size = steps.length; size >= 1; size = Math.floor(size / 2)) {
    for (let at = 0; at < steps.length && Date.now() < end;) {
      const shorter = steps.toSpliced(at, size);
      const again = await failureOf(made, { ...stream, steps: shorter }, module);
      if (again === undefined) at += size;
      else {
        steps = shorter;
        last = again;
      }
    }
  }
  const { setup } = stream;
  const lines = steps.map((step) => JSON.stringify(step)).join('\n');
  return `${failure.message}\nshrunk: ${last.message}\n${JSON.stringify(setup)}\n${lines}`;
}

/** Some failures depend on time. */
async function failureOf(
  made: Made,
  stream: Stream,
  module: WebAssembly.Module,
): Promise<Failure | undefined> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    try {
      await run(made, stream, module);
    } catch (error) {
      if (error instanceof Failure) return error;
      throw error;
    }
  }
  return undefined;
}
