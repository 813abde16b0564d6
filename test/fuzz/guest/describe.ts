/** A guest program in words, for people who look for a bug. */

import { actionAt, actionCount } from '../input.ts';
import {
  burstOf,
  delayOf,
  errnoOf,
  hostRequestOf,
  kindOf,
  parameter,
  ringOf,
  setupOf,
} from './input.ts';

const PARAMETERS = [1, 2, 3, 4, 5, 6, 7];

/** One line for the setup and one for each action. */
export function describeProgram(bytes: Uint8Array): string[] {
  const setup = setupOf(bytes);
  const fields = Object.entries(setup).map(([name, value]) => `${name} ${value}`);
  const actions = Array.from({ length: actionCount(bytes) }, (_, index) => {
    const action = actionAt(bytes, index);
    const kind = kindOf(action);
    const parameters = PARAMETERS.map((at) => parameter(action, at)).join(' ');
    return `${index}: ${kind} of ring ${ringOf(action, setup)} (${parameters})${more(action)}`;
  });

  function more(action: Uint8Array): string {
    switch (kindOf(action)) {
      case 'burst':
        return `: ${burstOf(parameter(action, 7))} chains`;
      case 'pump':
        return `: ${delayOf(parameter(action, 1))} us later`;
      case 'answer':
        return `: errno ${errnoOf(parameter(action, 2))}`;
      case 'host':
        return `: ${JSON.stringify(hostRequestOf(action, setup))}`;
      default:
        return '';
    }
  }

  return [fields.join(', '), ...actions];
}
