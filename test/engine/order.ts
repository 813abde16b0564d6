/**
 * In which order requests may complete and commands may be sent: rules (a), (i), (j) and (k) of
 * simulator.ts. It looks at requests, completions and at who rides in which command.
 */

import * as abi from '../../src/abi/request.ts';
import type { CompletionRecord, FullConfig, RequestRecord } from '../driver.ts';
import { isReset } from '../model.ts';
import { type Carried, concerns, conflictOf, textOf, type Tracked } from './tracked.ts';

/** A command at the host and who rides in it. */
export interface Ride extends Carried {
  readonly riders: readonly Tracked[];
}

const FAILURES: readonly number[] = [
  abi.STATUS_IO_ERROR,
  abi.STATUS_NO_SPACE,
  abi.STATUS_FLUSH_LATCHED,
];

/** A broken rule. */
export function fail(rule: string, what: string): never {
  throw new Error(`rule (${rule}): ${what}`);
}

/** The requests that are open, and what may become of them. */
export class Order {
  /** By tag, in order of submission. */
  readonly open = new Map<number, Tracked>();
  readonly #config: FullConfig;
  /** Every reset that was ever submitted. */
  readonly #resets: Tracked[] = [];
  /** Fences that are open. */
  readonly #fences = new Set<Tracked>();
  /** Completed without a command; the next completion must be of what took their place. */
  readonly #superseded: { request: Tracked; completion: CompletionRecord }[] = [];
  /** B5: a request since the last barrier has failed. */
  #failed = false;

  constructor(config: FullConfig) {
    this.#config = config;
  }

  add(request: Tracked): void {
    const { record, refusal, isFence } = request;
    this.open.set(record.tag, request);
    if (refusal !== abi.STATUS_OK) return;
    if (isFence) this.#fences.add(request);
    if (isReset(record.op)) this.#resets.push(request);
  }

  /** True while a reset goes on that ends what is submitted now to this queue. */
  isResetting(queue: number): boolean {
    return this.#resets.some(
      ({ record, queue: other, status }) =>
        status === undefined && (record.op === abi.OP_RESET || other === queue),
    );
  }

  /** True while a request to open the latch is open. */
  get isClearing(): boolean {
    return [...this.#fences].some(({ record }) => record.op === abi.OP_CLEAR_LATCH);
  }

  /** (i): a command passes no fence in either direction. For when completions are taken at once. */
  checkFences({ riders, command }: Ride): void {
    for (const fence of this.#fences) {
      for (const rider of riders) {
        if (rider.record.tag > fence.record.tag) {
          fail('i', `${textOf(command)} overtakes barrier ${fence.record.tag}`);
        }
      }
      const [first] = this.open.values();
      if (riders.includes(fence) && first !== fence) {
        fail('i', `barrier ${fence.record.tag} starts before ${first!.record.tag} completes`);
      }
    }
  }

  /** A request completes; `atHost` are the commands that are not answered. */
  complete(completion: CompletionRecord, atHost: readonly Ride[]): Tracked {
    const { tag, status } = completion;
    const request = this.open.get(tag);
    if (request === undefined) fail('a', `request ${tag} completes again or never was`);
    this.open.delete(tag);
    this.#fences.delete(request);
    if (request.refusal === abi.STATUS_OK) {
      if (status === abi.STATUS_ABORTED) this.#checkAbort(request);
      else this.#checkPlace(request);
      if (atHost.some(({ riders }) => riders.includes(request))) {
        fail('j', `request ${tag} completes while the host holds it`);
      }
    } else if (status !== request.refusal) fail('a', `request ${tag} is refused with ${status}`);
    for (const fence of this.#fences) {
      if (fence.record.tag < tag) fail('i', `${tag} completes before barrier ${fence.record.tag}`);
    }
    this.#checkSuperseding(request, completion);
    this.#checkBarrier(request, completion);
    request.status = status;
    return request;
  }

  /** (a), (i), (j): what completes with a status of its own does so after what it follows. */
  #checkPlace(request: Tracked): void {
    const { tag, op } = request.record;
    for (const earlier of this.open.values()) {
      if (earlier.record.tag > tag) return;
      const { tag: other } = earlier.record;
      if (request.isFence) fail('i', `barrier ${tag} completes before ${other}`);
      if (earlier.refusal !== abi.STATUS_OK) continue;
      if (conflictOf(earlier, request)) fail('a', `request ${tag} completes before ${other}`);
      if (isReset(op) && concerns(request, earlier)) {
        fail('j', `reset ${tag} completes before ${other}`);
      }
    }
  }

  /** (j): only a reset of its queue aborts a request. */
  #checkAbort(request: Tracked): void {
    const { tag } = request.record;
    const isEnded = this.#resets.some(
      (reset) => reset.record.tag > tag && concerns(reset, request),
    );
    if (!isEnded && !request.inReset) fail('j', `request ${tag} is aborted without a reset`);
    if (isReset(request.record.op)) fail('j', `reset ${tag} is aborted`);
  }

  /** (k). */
  #checkSuperseding(request: Tracked, completion: CompletionRecord): void {
    const { record, refusal, isFence, isSent } = request;
    const goesAway = completion.status === abi.STATUS_ABORTED || refusal !== abi.STATUS_OK;
    const needsNone = isFence || record.op !== abi.OP_WRITE || record.length === 0;
    if (!goesAway && !needsNone && !isSent) {
      if (request.stable) fail('k', `stable request ${record.tag} was never sent`);
      this.#superseded.push({ request, completion });
      return;
    }
    for (const { request: older, completion: first } of this.#superseded.splice(0)) {
      const { tag } = older.record;
      if (!covers(request, older)) fail('k', `${tag} is not sent, and ${record.tag} follows`);
      if (first.status !== completion.status || first.errno !== completion.errno) {
        fail('k', `${tag} does not answer what ${record.tag} answers`);
      }
      for (const other of this.open.values()) {
        const isBetween = other.record.tag > tag && other.record.tag < record.tag;
        if (!isBetween || other.refusal !== abi.STATUS_OK) continue;
        if (conflictOf(other, older)) fail('k', `${other.record.tag} must see ${tag}`);
      }
    }
  }

  /** (i), B5: a barrier fails without an errno when, and only when, one since the last failed. */
  #checkBarrier({ record, isFence, refusal }: Tracked, { status, errno }: CompletionRecord): void {
    if (isFence && record.op !== abi.OP_CLEAR_LATCH && status !== abi.STATUS_ABORTED) {
      const mustFail = this.#config.barrierFails && this.#failed;
      const fails = status === abi.STATUS_IO_ERROR && errno === 0;
      if (mustFail !== fails) fail('i', `barrier ${record.tag} fails: ${fails}`);
      this.#failed = false;
    } else if (refusal === abi.STATUS_OK && FAILURES.includes(status)) this.#failed = true;
  }
}

/** U1: what a write must be to take another one's place. */
function covers(later: Tracked, older: Tracked): boolean {
  const begin = ({ offset }: RequestRecord): number => Number(offset);
  const end = ({ offset, length }: RequestRecord): number => Number(offset) + Number(length);
  if (later.record.op !== abi.OP_WRITE || later.queue !== older.queue) return false;
  if (later.record.tag < older.record.tag) return false;
  return begin(later.record) <= begin(older.record) && end(later.record) >= end(older.record);
}
