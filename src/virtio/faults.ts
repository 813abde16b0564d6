/** What a device reports and refuses, in words. */
import { SluiceError } from '../errors.ts';

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

/** Tells the owner. What that throws is nobody's answer: it is thrown anew, alone. */
export function tell(onError: ((error: Error) => void) | undefined, error: Error): void {
  try {
    onError?.(error);
  } catch (thrown) {
    queueMicrotask(() => {
      throw thrown;
    });
  }
}
