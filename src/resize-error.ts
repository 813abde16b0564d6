/** Why a disk cannot get another size. */
import { SluiceError } from './errors.ts';

/** @returns ERR_SLUICE_UNSUPPORTED, with what stands in the way */
export function notResizable(reason: string): SluiceError {
  const message = `cannot resize the disk: ${reason}`;
  return new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { operation: 'resize' });
}
