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
import type { CommandRecord } from './engine.ts';

/** Hands one command to the backend of its file, which answers through its `done`. */
export function execute(backends: readonly (Backend | undefined)[], command: CommandRecord): void {
  const backend = backends[command.file];
  if (backend === undefined) throw new Error(`the engine named file ${command.file} of none`);
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
