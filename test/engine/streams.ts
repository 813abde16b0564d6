/**
 * Streams for the engine: what clients, disks and the clock may do in any order, as plain data, so
 * that a stream can be generated (random-stream.ts), shrunk, printed and kept (test/corpus/engine).
 */

import * as abi from '../../src/abi/request.ts';
import { createMemory, EngineDriver } from '../driver.ts';
import { ModelEngine } from '../model.ts';
import type { Build } from '../support/engine.ts';
import { Lockstep } from './lockstep.ts';
import { type Io, type Setup, Simulator } from './simulator.ts';

/** One step of a stream. What a step leaves out is 0. */
export type Action =
  | ({ readonly do: 'io' } & Io)
  | { readonly do: 'flush'; readonly queue?: number; readonly flags?: number }
  /** A record that must be refused, whatever else goes on; the numbers of 64 bits as text. */
  | {
      readonly do: 'hostile';
      readonly op: number;
      readonly flags: number;
      readonly queue?: number;
      readonly segments: number;
      readonly data: number;
      readonly offset: string;
      readonly length: string;
    }
  | { readonly do: 'wce'; readonly on: number; readonly queue?: number }
  /** Ends a queue, or all of them. */
  | { readonly do: 'reset'; readonly queue: number }
  | { readonly do: 'reset all' }
  | { readonly do: 'clear latch'; readonly queue: number }
  | { readonly do: 'pump' }
  /** Microseconds pass; less than 0: the clock is set back. */
  | { readonly do: 'time'; readonly micros: number }
  /** Answers a command at the host: with `errno`, or `syncErrno` when it is the sync. */
  | {
      readonly do: 'answer';
      readonly pick: number;
      readonly errno: number;
      readonly syncErrno: number;
    };

/** A whole stream. */
export interface Stream {
  readonly setup: Setup;
  readonly actions: readonly Action[];
}

/** What a run has seen. */
export interface Outcome {
  readonly requests: number;
  readonly syncs: number;
}

/** Memory for the transfers of any random stream. */
export const STREAM_BYTES = 32 * 1024 * 1024;

/** Runs streams on one build, each on a fresh engine in the same memory. */
export class StreamRunner {
  readonly #engine: EngineDriver;
  readonly #withModel: boolean;

  /** @param withModel compare with the model at every step; else only the simulator looks */
  constructor(build: Build, withModel: boolean, dataBytes = STREAM_BYTES) {
    this.#engine = EngineDriver.over(build, createMemory(dataBytes));
    this.#withModel = withModel;
  }

  /** Throws at the first broken rule. */
  run({ setup, actions }: Stream): Outcome {
    const engine = this.#engine;
    if (!engine.init(setup)) throw new Error('the engine refuses the configuration');
    const model = new ModelEngine(setup, engine.view);
    const pair = this.#withModel ? new Lockstep(engine, model) : engine;
    const simulator = new Simulator(pair, engine.view, setup);
    for (const action of actions) perform(simulator, action);
    simulator.finish();
    return { requests: simulator.completed.length, syncs: engine.counters().syncs };
  }
}

/** One step. */
export function perform(simulator: Simulator, action: Action): void {
  switch (action.do) {
    case 'io':
      simulator.submit(action);
      return;
    case 'flush':
      simulator.submitRecord({ ...NO_RANGE, ...action, op: abi.OP_FLUSH });
      return;
    case 'hostile':
      simulator.submitHostile({
        ...action,
        offset: BigInt(action.offset),
        length: BigInt(action.length),
      });
      return;
    case 'wce':
      simulator.submitRecord({ ...NO_RANGE, ...action, op: abi.OP_SET_WCE, length: action.on });
      return;
    case 'reset':
      simulator.submitRecord({ ...NO_RANGE, ...action, op: abi.OP_RESET_QUEUE });
      return;
    case 'reset all':
      simulator.submitRecord({ ...NO_RANGE, op: abi.OP_RESET });
      return;
    case 'clear latch':
      simulator.submitRecord({ ...NO_RANGE, ...action, op: abi.OP_CLEAR_LATCH });
      return;
    case 'time':
      simulator.advance(action.micros);
      return;
    case 'pump':
      simulator.pump();
      return;
    case 'answer':
      simulator.answer(action.pick, action.errno, action.syncErrno);
  }
}

const NO_RANGE = { flags: 0, queue: 0, segments: 0, data: 0, offset: 0, length: 0 };

/** A shorter stream that fails as well: chunks are left out, large ones first. */
export function shrink(stream: Stream, fails: (stream: Stream) => boolean): Stream {
  let { actions } = stream;
  for (let size = actions.length; size >= 1; size = Math.floor(size / 2)) {
    for (let at = 0; at < actions.length;) {
      const shorter = [...actions.slice(0, at), ...actions.slice(at + size)];
      if (fails({ ...stream, actions: shorter })) actions = shorter;
      else at += size;
    }
  }
  return { ...stream, actions };
}
