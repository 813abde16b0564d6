/** The disk that an earlier process has left, and a new engine over it. */
import { COMMAND_SYNC } from '../abi/command.ts';
import { OP_FLUSH, STATUS_OK } from '../abi/request.ts';
import { INITIAL, OLDER } from './history.ts';
import type { Lane } from './lane.ts';
import { RuleBroken } from './rule-broken.ts';
import { SectorImage } from './sector-image.ts';
import type { EngineSetup } from './stream.ts';

const FLUSH = { op: OP_FLUSH, flags: 0, queue: 0, from: 0, to: 0 };
/** Calls after which a lone flush must have been answered: one sync, and one wait. */
const CALLS = 8;

/** A disk that an earlier process has written everywhere and not flushed. */
export function foundImage(sectors: number): SectorImage {
  const image = new SectorImage({ sectors, value: OLDER });
  image.beginWrite(
    0,
    0,
    Array.from({ length: sectors }, () => INITIAL),
  );
  image.completeWrite(0);
  return image;
}

/**
 * Starts the lane's engine anew and lets it flush; the disk answers well. Returns the calls of the
 * engine that it took. Throws RuleBroken when the flush does not succeed.
 */
export function restart(
  lane: Lane,
  image: SectorImage,
  setup: EngineSetup,
  fileSectors: number,
): number {
  lane.reset();
  lane.submit(FLUSH, 1);
  let now = 0;
  for (let call = 1; call <= CALLS; call++) {
    lane.pump(now);
    now += setup.flushWait;
    const syncs: number[] = [];
    while (lane.takeCommand()) {
      const { id, op, file } = lane.command;
      if (op !== COMMAND_SYNC) throw new RuleBroken('kill', 'a lone flush sends a data command');
      image.beginSync(id, file * fileSectors, (file + 1) * fileSectors);
      syncs.push(id);
    }
    for (const id of syncs) {
      image.endSync(id, true);
      lane.answer(id, 0);
    }
    if (!lane.takeCompletion()) continue;
    const { status } = lane.completion;
    if (status === STATUS_OK) return call;
    throw new RuleBroken('kill', `the flush after a restart fails with status ${status}`);
  }
  throw new RuleBroken('kill', 'the flush after a restart is never completed');
}
