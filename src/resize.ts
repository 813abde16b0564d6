/**
 * A new capacity for a disk that is in use.
 *
 *   gate shut ─▶ nothing in flight ─▶ the backend's size ─▶ the engine's capacity ─▶ gate open
 *
 * The engine does not know that a size has to be synced. Its files are made dirty, as they are when
 * a disk is opened, so that the next flush is none that finds nothing to do (F3, F7, F9).
 */
import { CAPACITY_BITS } from './abi/limits.ts';
import { OP_CLEAR_LATCH } from './abi/request.ts';
import { invalid } from './arguments.ts';
import type { Backend } from './backend/backend.ts';
import type { EngineDevice } from './engine-device.ts';
import { SluiceError } from './errors.ts';

/** Options of Disk.resize. */
export interface ResizeOptions {
  /** The disk may become smaller: what lies behind its new end is lost. Default false. */
  readonly shrink?: boolean | undefined;
}

/** Resizes the only file of a disk. Requests that come meanwhile wait. */
export async function resizeDevice(
  device: EngineDevice,
  backends: readonly (Backend | undefined)[],
  sizeBytes: number,
  mayShrink: boolean,
): Promise<void> {
  const [backend, ...others] = backends;
  if (device.engine.mapAt !== 0) throw unsupported('this release resizes raw images only');
  if (others.length > 0) throw unsupported('it is striped over several files');
  if (backend?.resize === undefined) throw unsupported('its backend has a fixed size');
  if (sizeBytes >= 2 ** CAPACITY_BITS) throw invalid(`${sizeBytes} bytes are too many for a disk`);
  if (device.held > 0) {
    const reason = `${device.held} requests are stopped by an error; resume or reset them first`;
    throw new SluiceError('ERR_SLUICE_BUSY', `cannot resize the disk: ${reason}`, RESIZE);
  }
  await device.quiesced(async () => {
    const { sizeBytes: found } = device;
    if (sizeBytes < found && !mayShrink) {
      throw invalid(
        `${sizeBytes} bytes are less than the disk has (${found}): ` +
          'pass shrink: true to give up what lies behind them',
      );
    }
    await backend.resize?.(sizeBytes);
    device.sizeBytes = sizeBytes;
    if (!device.readOnly && !device.engine.latched) await makeDirty(device);
  });
}

const RESIZE = { operation: 'resize' };

function unsupported(reason: string): SluiceError {
  return new SluiceError('ERR_SLUICE_UNSUPPORTED', `cannot resize the disk: ${reason}`, RESIZE);
}

/** Opening a latch that is open changes nothing but this. */
async function makeDirty(device: EngineDevice): Promise<void> {
  await new Promise<void>((resolve) => {
    device.submit(OP_CLEAR_LATCH, 0, 0, 0, 0, 0, { completed: () => resolve() }, 0);
    device.kick();
  });
}
