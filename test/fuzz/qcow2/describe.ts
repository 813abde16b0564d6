/** A program for a qcow2 mapping in words, for people who look for a bug. */

import { actionAt, actionCount } from '../input.ts';
import { opName } from '../describe.ts';
import { imageOf } from './image.ts';
import * as input from './input.ts';

/** One line for the setup and one for each action. */
export function describeQcow2(bytes: Uint8Array): string[] {
  const { shape, ...setup } = input.setupOf(bytes);
  const capacity = imageOf(shape).disk.length;
  const words = (fields: object): string =>
    Object.entries(fields)
      .map(([name, value]) => `${name} ${value}`)
      .join(', ');
  const actions = Array.from({ length: actionCount(bytes) }, (_, index) =>
    describeAction(actionAt(bytes, index)),
  );
  return [words(shape), words(setup), ...actions.map((text, index) => `${index}: ${text}`)];

  function describeAction(action: Uint8Array): string {
    const kind = input.kindOf(action);
    switch (kind) {
      case 'io':
        return describeIo(input.ioOf(action, shape, capacity));
      case 'burst': {
        const io = describeIo(input.ioOf(action, shape, capacity));
        return `${input.burstCount(action)} times ${io}, every ${input.strideOf(action)} clusters`;
      }
      case 'flush':
      case 'control':
        return describeIo(input.controlOf(action, kind));
      case 'pump':
        return `pump ${input.delayOf(action)} us later`;
      case 'answer':
        return `answer ${words(input.answerOf(action))}`;
      default:
        return `${kind} ${action.subarray(1).join(' ')}`;
    }
  }
}

function describeIo({ op, flags, queue, offset, length, pieces }: input.Io): string {
  return `${opName(op)} flags ${flags} queue ${queue} at ${offset}+${length}, ${pieces} pieces`;
}
