/** So many bytes a second, and no more. */
import { setTimeout as sleep } from 'node:timers/promises';

/** Answers when more bytes may be moved. */
export class Pace {
  readonly #bytesPerSecond: number;
  readonly #startMs = performance.now();
  #bytes = 0;

  constructor(bytesPerSecond: number) {
    this.#bytesPerSecond = bytesPerSecond;
  }

  /** Resolves when what was asked for before has had its time. Rejects when it is aborted. */
  async take(bytes: number, signal?: AbortSignal): Promise<void> {
    const dueMs = this.#startMs + (this.#bytes / this.#bytesPerSecond) * 1000;
    this.#bytes += bytes;
    const waitMs = dueMs - performance.now();
    if (waitMs > 0) await sleep(waitMs, undefined, signal === undefined ? {} : { signal });
    signal?.throwIfAborted();
  }
}
