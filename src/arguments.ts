/** Checks of what callers pass, and the rule for aborted calls. */
import type { ByteCount } from './disk-types.ts';
import { SluiceError } from './errors.ts';

/** A byte offset or length as an exact number. */
export function toNumber(value: ByteCount, name: string): number {
  const number = Number(value);
  if (Number.isSafeInteger(number) && number >= 0) return number;
  throw new SluiceError(
    'ERR_SLUICE_INVALID_ARGUMENT',
    `${name} must be a whole number of bytes from 0 to 2^53-1, not ${String(value)}`,
  );
}

/** `work`, or a rejection with the signal's reason if that comes first. */
export function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason as Error);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
