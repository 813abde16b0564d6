/** The end of a disk with a mapping: what it has in memory goes to its files. */
import { MAP_CLOSING, MAP_DIRTY } from './abi/map.ts';
import type { EngineDevice } from './engine-device.ts';
import { SluiceError } from './errors.ts';

/**
 * Writes the tables that have changed, and gives back what is reserved. True when nothing is left;
 * false when the host did not let it. Nothing may be submitted after this.
 */
export async function settleMapping(device: EngineDevice): Promise<boolean> {
  const { engine } = device;
  if (engine.mapAt === 0) return true;
  engine.storeMap(MAP_CLOSING, 1);
  for (let before = -1; before !== device.commands;) {
    before = device.commands;
    await device.drained();
  }
  return engine.loadMap(MAP_DIRTY) === 0;
}

/** What close rejects with when something was left. */
export function notSettled(): SluiceError {
  const message =
    'the image was closed with changes of its tables unwritten: what was flushed is there, what ' +
    'was written later may be lost; check the image for leaks';
  return new SluiceError('ERR_SLUICE_IO', message, { operation: 'close' });
}
