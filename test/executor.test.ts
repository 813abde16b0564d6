/** A backend is told when a command is the only one in flight. */
import { describe, expect, it } from 'vitest';

import { COMMAND_READ } from '../src/abi/command.ts';
import type { Backend } from '../src/backend/backend.ts';
import type { CommandRecord, Engine } from '../src/engine.ts';
import { Executor } from '../src/executor.ts';

/** Emits reads with these ids. */
function emitting(ids: number[]): Engine {
  const takeCommand = (command: CommandRecord): boolean => {
    const id = ids.shift();
    if (id !== undefined) Object.assign(command, { id, op: COMMAND_READ });
    return id !== undefined;
  };
  return { takeCommand } as unknown as Engine;
}

/** What it is told with each read. */
class Told {
  alone = false;
  readonly log: [number, boolean][] = [];

  read(id: number): void {
    this.log.push([id, this.alone]);
  }
}

function run(executor: Executor, ...ids: number[]): void {
  executor.run(emitting(ids));
}

describe('the executor', () => {
  it('tells of a command that nothing follows and nothing precedes', () => {
    const told = new Told();
    const executor = new Executor([told as unknown as Backend]);
    run(executor, 1);
    expect(executor.inFlight).toBe(1);
    run(executor, 2);
    executor.inFlight = 0;
    run(executor, 3, 4);
    executor.inFlight = 0;
    run(executor);
    run(executor, 5);
    expect(told.log).toEqual([
      [1, true],
      [2, false],
      [3, false],
      [4, false],
      [5, true],
    ]);
    expect(executor.commands).toBe(5);
  });

  it('sets nothing where a backend does not ask for it', () => {
    const log: number[] = [];
    const frozen = Object.freeze({ read: (id: number) => log.push(id) });
    const executor = new Executor([frozen as unknown as Backend]);
    run(executor, 7);
    expect(log).toEqual([7]);
  });

  it('refuses a file that is not there', () => {
    expect(() => run(new Executor([]), 1)).toThrow('file 0 of none');
  });
});
