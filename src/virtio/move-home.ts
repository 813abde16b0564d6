/** How a disk leaves the memory of a guest. */
import type { EngineDevice } from '../engine-device.ts';
import { SluiceError } from '../errors.ts';

/** So long, 5 s, a client of a server may keep the disk from leaving. */
const TRIES = 500;
const RETRY_MS = 10;

/**
 * Moves a disk to a memory of its own as soon as nothing is in flight; unless `isOver` says that
 * nobody needs it any more.
 * @throws SluiceError ERR_SLUICE_BUSY when a client of a server does not finish its request
 */
export async function moveHome(device: EngineDevice, isOver: () => boolean): Promise<void> {
  for (let tries = 0; tries < TRIES; tries++) {
    const isDone = await device.quiesced(() => {
      if (!isOver() && device.arena.idle) device.leave();
      return Promise.resolve(isOver() || device.isHome);
    });
    if (isDone) return;
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
  throw new SluiceError(
    'ERR_SLUICE_BUSY',
    'the disk cannot leave the memory: a client is in the middle of a request; close its server',
  );
}
