/**
 * A bounded, adaptive busy poll: at queue depth 1 the wake-up of a sleeping thread takes longer
 * than a request, so a connection that has answered everything looks at its socket a little longer
 * before the thread sleeps. KVM's halt polling does the same.
 *
 *   score 0        one wait in PROBE_INTERVAL polls, the others answer at once
 *   score above 0  every wait polls
 *   bytes came     score + 1, at most MAX_SCORE
 *   budget spent   score - 1, at least 0
 *
 * So a client that thinks for longer than the budget costs MAX_SCORE budgets when it begins to, and
 * then one in PROBE_INTERVAL requests. Nobody polls when nothing was received: an idle server
 * sleeps. Nor after requests that took longer than the budget: they waited for a disk, and polling
 * costs more than it gains then.
 */
import { availableParallelism } from 'node:os';
import { loadNative, type Native } from '../backend/native.ts';

/** Rounds of receiving and answering in a row; then timers, signals, other sockets have a turn. */
export const MAX_POLL_ROUNDS = 64;
/** The same as a time. */
export const MAX_POLL_MS = 1;
/** Misses in a row after which a connection that always hit only probes. */
export const MAX_SCORE = 8;
/** Waits from one probe to the next. */
export const PROBE_INTERVAL = 64;

/**
 * Requests that came together, beyond which nobody polls: a deep queue is better read in large
 * bursts, which form while the thread sleeps and wakes.
 */
export const MAX_POLLED_BURST = 4;

/** recv(2): answers at once. Linux, include/linux/socket.h. */
const MSG_DONTWAIT = 0x40;

/** The calls that polling needs. */
export type PollCalls = Pick<Native, 'addressOf' | 'recv'>;

export class BusyPoll {
  /** How long a wait lasts at most. */
  readonly budgetMs: number;
  readonly #calls: PollCalls;
  readonly #now: () => number;
  #score = 0;
  /** Waits until the next probe. */
  #untilProbe = 0;
  /** The last target, since its address takes a call. */
  #target: Uint8Array | undefined;
  #address = 0;

  /** @param now milliseconds, as performance.now() counts them */
  constructor(calls: PollCalls, budgetMicros: number, now = (): number => performance.now()) {
    this.#calls = calls;
    this.budgetMs = budgetMicros / 1000;
    this.#now = now;
  }

  /**
   * Receives into `target` within the budget.
   * @returns how many bytes came; 0 when none did. An end or an error is also 0: an end stays where
   *   it is, and a socket that has lost its error ends, so libuv meets either of them.
   */
  wait(fd: number, target: Uint8Array): number {
    if (!this.#worthIt()) return 0;
    this.#locate(target);
    const deadlineMs = this.#now() + this.budgetMs;
    do {
      const received = this.#calls.recv(fd, this.#address, target.length, MSG_DONTWAIT);
      if (received > 0) this.#score = Math.min(this.#score + 1, MAX_SCORE);
      if (received >= 0) return received;
    } while (this.#now() < deadlineMs);
    this.#score = Math.max(this.#score - 1, 0);
    return 0;
  }

  #worthIt(): boolean {
    if (this.#score > 0) return true;
    if (this.#untilProbe === 0) this.#untilProbe = PROBE_INTERVAL;
    return --this.#untilProbe === 0;
  }

  #locate(target: Uint8Array): void {
    if (target === this.#target) return;
    this.#target = target;
    this.#address = this.#calls.addressOf(target);
  }
}

/** A poll for a connection; undefined where it is off, lacks koffi, or would take the only CPU. */
export function busyPoll(budgetMicros: number): BusyPoll | undefined {
  if (budgetMicros === 0 || availableParallelism() < 2) return undefined;
  const native = loadNative();
  return native === null ? undefined : new BusyPoll(native, budgetMicros);
}
