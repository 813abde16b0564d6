/** Requests to a device as promises, kicked once at the end of each turn. */
import { STATUS_OK } from './abi/request.ts';
import type { CompletionTarget, Device } from './device.ts';
import { type Asked, requestError } from './request-error.ts';

/** A request that waits for its completion. */
interface Pending {
  resolve(value: number): void;
  reject(error: unknown): void;
  readonly asked: Asked;
}

export class PromisedRequests implements CompletionTarget {
  readonly #device: Device;
  /** By token; its length is the most requests that ever waited at once. */
  readonly #pending: (Pending | undefined)[] = [];
  readonly #freeTokens: number[] = [];
  /** Requests that found the device full, in order. */
  readonly #waiting: (() => boolean)[] = [];
  #kickQueued = false;

  constructor(device: Device) {
    this.#device = device;
  }

  /**
   * Submits one request, in order after those submitted before; see `Device.submit` for the
   * numbers. Resolves with the completion's value.
   * @param operation what the caller asked for, for the error message
   * @throws SluiceError by the completion's status
   */
  submit(
    op: number,
    flags: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    operation: string,
  ): Promise<number> {
    return new Promise((resolve, reject) => {
      const asked = { operation, offset, length, sizeBytes: this.#device.sizeBytes };
      const token = this.#freeTokens.pop() ?? this.#pending.length;
      this.#pending[token] = { resolve, reject, asked };
      const attempt = (): boolean =>
        this.#device.submit(op, flags, offset, length, segments, data, this, token);
      if (this.#waiting.length > 0 || !attempt()) this.#wait(attempt);
      this.#queueKick();
    });
  }

  /** Called by the device, once for each request. */
  completed(token: number, status: number, value: number, errno: number): void {
    const pending = this.#pending[token];
    if (pending === undefined) throw new Error(`the engine completed request ${token} twice`);
    this.#pending[token] = undefined;
    this.#freeTokens.push(token);
    if (status === STATUS_OK) pending.resolve(value);
    else pending.reject(requestError(status, errno, pending.asked));
  }

  #wait(attempt: () => boolean): void {
    if (this.#waiting.push(attempt) === 1) this.#device.whenSpace(() => this.#retry());
  }

  #retry(): void {
    let sent = 0;
    while (this.#waiting[sent]?.() === true) sent += 1;
    this.#waiting.splice(0, sent);
    if (this.#waiting.length > 0) this.#device.whenSpace(() => this.#retry());
    this.#queueKick();
  }

  #queueKick(): void {
    if (this.#kickQueued) return;
    this.#kickQueued = true;
    queueMicrotask(() => {
      this.#kickQueued = false;
      this.#device.kick();
    });
  }
}
