/** An input in words, for people who look for a bug. */

import {
  actionAt,
  actionCount,
  answerOf,
  burstCount,
  controlOf,
  delayOf,
  hostileOf,
  ioOf,
  kindOf,
  setupOf,
  STRIDES,
} from './input.ts';

const OPS = [
  'READ',
  'WRITE',
  'WRITE_ZEROES',
  'DISCARD',
  'BLOCK_STATUS',
  'FLUSH',
  'SET_WCE',
  'RESET_QUEUE',
  'RESET',
  'CLEAR_LATCH',
];

/** What an operation is called. */
export const opName = (op: number): string => OPS[op] ?? `OP ${op}`;

/** One line for the setup and one for each action. */
export function describeInput(bytes: Uint8Array): string[] {
  const setup = Object.entries(setupOf(bytes)).map(([name, value]) => `${name} ${value}`);
  const actions = Array.from({ length: actionCount(bytes) }, (_, index) =>
    describeAction(actionAt(bytes, index)),
  );
  return [setup.join(', '), ...actions.map((text, index) => `${index}: ${text}`)];
}

function describeAction(action: Uint8Array): string {
  const kind = kindOf(action);
  switch (kind) {
    case 'io':
    case 'burst': {
      const { op, flags, queue, at, cells, shift, pieces, apart } = ioOf(action);
      const range = `cells ${at}+${cells}, bytes ${shift[0]} ${shift[1]}`;
      const what = `${opName(op)} flags ${flags} queue ${queue} ${range}, segments ${pieces}`;
      if (kind === 'io') return `${what}, memory ${apart}`;
      return `${burstCount(action)} times ${what}, every ${STRIDES[apart & 7]} cells`;
    }
    case 'flush':
    case 'control': {
      const { op, flags, queue, length } = controlOf(action, kind);
      return `${opName(op)} flags ${flags} queue ${queue} length ${length}`;
    }
    case 'hostile': {
      const { op, flags, queue, segments, data, offset, length } = hostileOf(action);
      const range = `${offset}+${length}, ${segments} segments at ${data}`;
      return `hostile ${opName(op)} flags ${flags} queue ${queue} ${range}`;
    }
    case 'pump':
      return `pump ${delayOf(action)} us later, parameters ${action[2] ?? 0} ${action[3] ?? 0}`;
    case 'answer':
      return `answer ${JSON.stringify(answerOf(action))}`;
    case 'take':
      return `take commands and ${action[1] ?? 0} completions`;
    case 'wait':
    case 'drain':
      return kind;
  }
}
