/** The end of a disk with a mapping: what it has in memory goes to its files. */
import { MAP_CLOSING, MAP_DIRTY } from './abi/map.ts';
import type { EngineDevice } from './engine-device.ts';
import { SluiceError } from './errors.ts';
import type { Mapping } from './mapping.ts';

/**
 * Writes what is left, flushes, and lets the mapping finish its files once all of that is stable.
 * Nothing may be submitted after this. Rejects with the first failure; nothing is done after it.
 */
export async function endWriting(
  device: EngineDevice,
  mapping: Mapping | undefined,
  flush: () => Promise<void>,
): Promise<void> {
  if (!(await settle(device, flush))) throw notSettled();
  if (mapping?.finish === undefined) return;
  await device.drained();
  await mapping.finish(device.engine);
}

/** What a flush makes stable may let more be given back, which another one makes stable. */
const TRIES = 3;

/**
 * Writes the tables that have changed, gives back what is reserved, and flushes. True when nothing
 * is left; false when the host did not let it. Rejects with what the flush does.
 */
export async function settle(device: EngineDevice, flush: () => Promise<void>): Promise<boolean> {
  for (let tries = 0; tries < TRIES; tries++) {
    await writeTables(device);
    await flush();
    await device.drained();
    if (device.engine.mapAt === 0 || device.engine.loadMap(MAP_DIRTY) === 0) return true;
  }
  return false;
}

async function writeTables(device: EngineDevice): Promise<void> {
  if (device.engine.mapAt === 0) return;
  device.engine.storeMap(MAP_CLOSING, 1);
  for (let before = -1; before !== device.commands;) {
    before = device.commands;
    await device.drained();
  }
}

function notSettled(): SluiceError {
  const message =
    'the image was closed with changes of its tables unwritten: what was flushed is there, what ' +
    'was written later may be lost; check the image for leaks';
  return new SluiceError('ERR_SLUICE_IO', message, { operation: 'close' });
}
