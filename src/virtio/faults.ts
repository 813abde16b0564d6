/** What a device reports and refuses, in words. */
import { SluiceError } from '../errors.ts';
import type { QueueFault } from './virtqueue-types.ts';

/** The driver has broken a rule. */
export function needsReset(message: string): SluiceError {
  return new SluiceError('ERR_SLUICE_VIRTQUEUE', `${message}; the device needs a reset`);
}

/** The owner has to wait for something, or to end it. */
export function busy(reason: string): SluiceError {
  return new SluiceError('ERR_SLUICE_BUSY', `the virtio-blk device is busy: ${reason}`);
}

/** The owner has closed it. */
export function closed(): SluiceError {
  return new SluiceError('ERR_SLUICE_CLOSED', 'the virtio-blk device is closed; create another');
}

/** A fault of a ring. */
export function brokenQueue({ queue, reason, head, descriptor }: QueueFault): SluiceError {
  const place = `head ${head}, descriptor ${descriptor}`;
  return needsReset(`the driver has broken queue ${queue} (${place}): ${reason}`);
}

/** Tells the owner. What that throws is nobody's answer: it is thrown anew, alone. */
export function tell(onError: ((error: Error) => void) | undefined, error: unknown): void {
  try {
    onError?.(error instanceof Error ? error : new Error(String(error)));
  } catch (thrown) {
    queueMicrotask(() => {
      throw thrown;
    });
  }
}
