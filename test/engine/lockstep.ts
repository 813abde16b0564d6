/** The engine and its model side by side: what one does, the other must do. */

import { isDeepStrictEqual } from 'node:util';
import { COMMAND_BLOCK_STATUS, COMMAND_WRITE } from '../../src/abi/command.ts';
import type {
  BlockEngine,
  CommandRecord,
  CompletionRecord,
  Counters,
  Generations,
  RequestRecord,
} from '../driver.ts';

/** Feeds both the same records and throws at the first difference in what they answer. */
export class Lockstep implements BlockEngine {
  readonly #engine: BlockEngine;
  readonly #model: BlockEngine;

  constructor(engine: BlockEngine, model: BlockEngine) {
    this.#engine = engine;
    this.#model = model;
  }

  submit(request: RequestRecord): boolean {
    const taken = this.#engine.submit(request);
    same('request ring', [taken], [this.#model.submit(request)]);
    return taken;
  }

  result(id: number, errno: number, value = 0): void {
    this.#engine.result(id, errno, value);
    this.#model.result(id, errno, value);
  }

  pump(now?: number): void {
    this.#engine.pump(now);
    this.#model.pump(now);
    same('wait', [this.#engine.wait()], [this.#model.wait()]);
    same('generations', [this.#engine.generations()], [this.#model.generations()]);
    same('counters', [this.#engine.counters()], [this.#model.counters()]);
  }

  takeCommands(): CommandRecord[] {
    const commands = this.#engine.takeCommands();
    const expected = this.#model.takeCommands();
    const isMerged = (command: CommandRecord, index: number): CommandRecord =>
      expected[index]?.data === 0 ? { ...command, data: 0 } : command;
    same('commands', commands.map(isMerged).map(bare), expected.map(bare));
    return commands;
  }

  takeCompletions(limit?: number): CompletionRecord[] {
    const completions = this.#engine.takeCompletions(limit);
    same('completions', completions, this.#model.takeCompletions(limit));
    return completions;
  }

  wait(): number {
    return this.#engine.wait();
  }

  counters(): Counters {
    return this.#engine.counters();
  }

  generations(): Generations {
    return this.#engine.generations();
  }
}

/** Without what may differ (see model.ts). */
function bare(command: CommandRecord): CommandRecord {
  const hasData = command.op <= COMMAND_WRITE || command.op === COMMAND_BLOCK_STATUS;
  return hasData ? command : { ...command, segments: 0, data: 0 };
}

function same(what: string, engine: readonly unknown[], model: readonly unknown[]): void {
  if (isDeepStrictEqual(engine, model)) return;
  const lines = (list: readonly unknown[]): string =>
    list.map((item) => `\n    ${JSON.stringify(item)}`).join('');
  throw new Error(`${what} differ\n  engine:${lines(engine)}\n  model:${lines(model)}`);
}
