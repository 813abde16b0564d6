/** Checks of what callers pass. */
import type { ByteCount } from './disk-types.ts';
import { SluiceError } from './errors.ts';

/** A byte offset or length as an exact number. */
export function toNumber(value: ByteCount, name: string): number {
  const number = typeof value === 'bigint' ? Number(value) : value;
  if (Number.isSafeInteger(number) && number >= 0) return number;
  throw invalid(`${name} must be a whole number of bytes from 0 to 2^53-1, not ${show(value)}`);
}

/** Bytes in a view that counts bytes: in another view a length would mean something else. */
export function toBytes(value: Uint8Array, name: string): Uint8Array {
  if (value instanceof Uint8Array) return value;
  throw invalid(`${name} must be a Uint8Array, not ${show(value)}`);
}

/** A switch that is on, off or left out; nothing else, because `1` for fua must not mean off. */
export function toSwitch(value: boolean | undefined, name: string): boolean {
  if (value === undefined || typeof value === 'boolean') return value === true;
  throw invalid(`${name} must be true or false, not ${show(value)}`);
}

/**
 * A disk, by what is used of it: a program may have the class twice, in two bundles.
 * @param whose who wants it
 */
export function checkDisk(value: unknown, whose: string): void {
  if (typeof value === 'object' && value !== null && 'device' in value && 'attach' in value) return;
  throw invalid(`${whose} needs a Disk, as openDisk resolves with, not ${show(value)}`);
}

/** A whole number of `from` to `to`. */
export function toWhole(value: number, name: string, from: number, to: number): number {
  if (Number.isInteger(value) && value >= from && value <= to) return value;
  throw invalid(`${name} must be a whole number from ${from} to ${to}, not ${show(value)}`);
}

/** The error for an argument. */
export function invalid(message: string): SluiceError {
  return new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', message);
}

/** A value in a message: a string in quotes, an object by its class. */
export function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value);
  if (value === null || typeof value !== 'object') return String(value);
  const { name } = (value.constructor as { readonly name: string } | undefined) ?? Object;
  return `${/^[AEIO]/.test(name) ? 'an' : 'a'} ${name}`;
}
