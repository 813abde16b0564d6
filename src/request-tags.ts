/** The tags of requests in the engine: who gets the completion, with which token. */
import { REQUEST_SLOTS } from './abi/limits.ts';
import type { CompletionTarget } from './device.ts';

/** See the head of the file. Tags are below REQUEST_SLOTS. */
export class RequestTags {
  readonly #targets: (CompletionTarget | undefined)[] = [];
  readonly #tokens = new Uint32Array(REQUEST_SLOTS);
  readonly #free: number[] = [];

  constructor() {
    for (let tag = REQUEST_SLOTS - 1; tag >= 0; tag--) this.#free.push(tag);
  }

  /** Tags that are in use. */
  get open(): number {
    return REQUEST_SLOTS - this.#free.length;
  }

  /** Lends a tag; undefined: all are in use. */
  take(target: CompletionTarget, token: number): number | undefined {
    const tag = this.#free.pop();
    if (tag === undefined) return undefined;
    this.#targets[tag] = target;
    this.#tokens[tag] = token;
    return tag;
  }

  /** Takes a tag back, and tells who had it. */
  complete(tag: number, status: number, value: number, errno: number): void {
    const target = this.#targets[tag];
    const token = this.#tokens[tag] ?? 0;
    this.#targets[tag] = undefined;
    this.#free.push(tag);
    target?.completed(token, status, value, errno);
  }
}
