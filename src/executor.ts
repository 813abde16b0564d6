/** Runs command records on backends. */
import {
  COMMAND_BLOCK_STATUS,
  COMMAND_DISCARD,
  COMMAND_EXTEND,
  COMMAND_FAST_ZERO,
  COMMAND_MAY_UNMAP,
  COMMAND_READ,
  COMMAND_STABLE,
  COMMAND_SYNC,
  COMMAND_WRITE,
  COMMAND_WRITE_ZEROES,
} from './abi/command.ts';
import type { Backend } from './backend/backend.ts';
import type { CommandRecord, Engine } from './engine.ts';

const NO_DATA = { segments: 0, data: 0, offset: 0, length: 0, guest: 0 };

/** Hands commands to the backends of their files, which answer through their `done`. */
export class Executor {
  /** Commands handed out so far. */
  commands = 0;
  /** Those at backends. */
  inFlight = 0;
  readonly #backends: readonly (Backend | undefined)[];
  #command: CommandRecord = { id: 0, op: 0, flags: 0, file: 0, ...NO_DATA };
  #next: CommandRecord = { ...this.#command };

  constructor(backends: readonly (Backend | undefined)[]) {
    this.#backends = backends;
  }

  /** Hands out what the engine has emitted, and tells a backend when a command is alone. */
  run(engine: Engine): void {
    let more = engine.takeCommand(this.#next);
    while (more) {
      const command = this.#next;
      this.#next = this.#command;
      this.#command = command;
      more = engine.takeCommand(this.#next);
      this.inFlight += 1;
      this.commands += 1;
      execute(this.#backends, command, !more && this.inFlight === 1);
    }
  }
}

/** Hands one command to the backend of its file; `alone`: no other is in flight. */
export function execute(
  backends: readonly (Backend | undefined)[],
  command: CommandRecord,
  alone = false,
): void {
  const backend = backends[command.file];
  if (backend === undefined) throw new Error(`the engine named file ${command.file} of none`);
  if (backend.alone !== undefined) backend.alone = alone;
  const { id, flags, offset, length, segments, data, guest } = command;
  switch (command.op) {
    case COMMAND_READ:
      backend.read(id, offset, length, segments, data, guest);
      return;
    case COMMAND_WRITE:
      backend.write(id, offset, length, segments, data, (flags & COMMAND_STABLE) !== 0);
      return;
    case COMMAND_WRITE_ZEROES:
      backend.writeZeroes(
        id,
        offset,
        length,
        (flags & COMMAND_MAY_UNMAP) !== 0,
        (flags & COMMAND_FAST_ZERO) !== 0,
      );
      return;
    case COMMAND_DISCARD:
      backend.discard(id, offset, length);
      return;
    case COMMAND_BLOCK_STATUS:
      backend.blockStatus(id, offset, length, data);
      return;
    case COMMAND_SYNC:
      backend.sync(id);
      return;
    case COMMAND_EXTEND:
      if (backend.extend === undefined) throw new Error(`file ${command.file} cannot be extended`);
      backend.extend(id, offset + length);
      return;
    default:
      throw new Error(`the engine emitted operation ${command.op}, which this host does not know`);
  }
}
