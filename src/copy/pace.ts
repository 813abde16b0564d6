/** So many bytes a second, and no more. */
import { setTimeout as sleep } from 'node:timers/promises';

/** A longer timer ends at once. */
const TIMER_MAX_MS = 2 ** 31 - 1;

/** Answers when more bytes may be moved. */
export class Pace {
  readonly #bytesPerSecond: number;
  readonly #startMs = performance.now();
  #bytes = 0;

  constructor(bytesPerSecond: number) {
    this.#bytesPerSecond = bytesPerSecond;
  }

  /** Resolves when what was asked for before has had its time. Rejects with the signal's reason. */
  async take(bytes: number, signal?: AbortSignal): Promise<void> {
    const dueMs = this.#startMs + (this.#bytes / this.#bytesPerSecond) * 1000;
    this.#bytes += bytes;
    signal?.throwIfAborted();
    while (performance.now() < dueMs) {
      const waitMs = Math.min(dueMs - performance.now(), TIMER_MAX_MS);
      await sleep(waitMs, undefined, signal && { signal }).catch(() => undefined);
      signal?.throwIfAborted();
    }
  }
}
