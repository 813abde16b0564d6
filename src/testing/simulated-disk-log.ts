/** What a simulated disk writes down: commands, answers, crashes. */
import type { MemoryCommand, MemoryOperation } from '../backend/memory-command.ts';
import type { Affliction } from './simulated-disk-faults.ts';
import type { SimulatedFaultName } from './simulated-disk-options.ts';

/** One line of the log. */
export interface SimulatedEvent {
  /** Microseconds since the disk was made. */
  readonly at: number;
  readonly event: 'taken' | 'answered' | 'power cut' | 'process killed';
  /** Of the command, or 0. */
  readonly id: number;
  readonly op?: MemoryOperation;
  /** Bytes. */
  readonly offset?: number;
  /** Bytes. */
  readonly length?: number;
  /** A stable write. */
  readonly stable?: true;
  /** Taken: when it will be answered; left out when it is stuck. */
  readonly due?: number;
  /** Taken: the faults that have hit it. */
  readonly faults?: readonly SimulatedFaultName[];
  /** Answered: 0, or a positive errno. */
  readonly errno?: number;
  /** Power cut: how the contents that were left came about. */
  readonly left?: string;
}

/** The event of a command that comes in. */
export function takenEvent(
  at: number,
  { id, op, offset, length, stable }: MemoryCommand,
  { answer, stuck, extraMicros }: Affliction,
  due: number,
): SimulatedEvent {
  const faults: SimulatedFaultName[] = [];
  if (answer !== undefined) faults.push(answer);
  if (stuck) faults.push('stuck');
  if (extraMicros > 0) faults.push('slow');
  return {
    at,
    event: 'taken',
    id,
    op,
    ...(op === 'sync' ? {} : { offset, length }),
    ...(stable ? { stable } : {}),
    ...(stuck ? {} : { due }),
    ...(faults.length > 0 ? { faults } : {}),
  };
}
