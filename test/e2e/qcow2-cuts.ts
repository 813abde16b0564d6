/**
 * What a power cut could leave of a served qcow2 image, from the record of what the kernel was
 * asked to do (strace); and what its client may expect to find. The rules K1 to K3 and C1 are those
 * of power-cuts.ts; here a change of the file's size and a hole are changes like a write, and:
 *
 * C2 A discarded sector is what it was, or zero, until it is written.
 */
import { Random } from '../engine/random.ts';
import type { SystemCall } from '../support/strace.ts';

const SECTOR_BYTES = 512;

/** A request of the client; times are microseconds since the epoch. */
export interface Asked {
  readonly kind: 'write' | 'fua' | 'zero' | 'trim' | 'flush';
  /** What each sector of a write carries; else 0. */
  readonly stamp: number;
  readonly first: number;
  readonly sectors: number;
  readonly began: number;
  /** When it was acknowledged; null: never. */
  readonly ended: number | null;
}

/** A change of the file. */
interface Change {
  readonly offset: number;
  /** What is written there. */
  readonly bytes?: Uint8Array;
  /** So many bytes become zero. */
  readonly zeroes?: number;
  /** The file ends at `offset`. */
  readonly resizes?: true;
  readonly began: number;
  /** From when on it is stable. */
  readonly stableAt: number;
}

/** The changes of the kernel's record, with the moment from which each is stable (K2). */
export function changesOf(calls: readonly SystemCall[]): Change[] {
  const isStable = (call: SystemCall): boolean => stable.has(Number.parseInt(call.args, 10));
  const opened = calls.filter(({ name, args }) => name === 'openat' && args.includes('O_DSYNC'));
  const stable = new Set(opened.map(({ result }) => result));
  const syncs = calls.filter(({ name, result }) => name === 'fdatasync' && result === 0);
  return calls
    .filter(({ name, result }) => /^(pwrite|fallocate|ftruncate)/.test(name) && result >= 0)
    .map((call) => {
      const sync = syncs.find(({ startMicros }) => startMicros >= call.endMicros);
      const ownProof = isStable(call) && call.name.startsWith('pwrite');
      const stableAt = ownProof ? call.endMicros : (sync?.endMicros ?? Infinity);
      return Object.assign(effectOf(call), { began: call.startMicros, stableAt });
    });
}

function effectOf({ name, args, result }: SystemCall): Omit<Change, 'began' | 'stableAt'> {
  const numbers = args.split(', ').map(Number);
  const [beforeLast = 0, last = 0] = numbers.slice(-2);
  if (name === 'ftruncate') return { offset: last, resizes: true };
  if (name === 'fallocate') return { offset: beforeLast, zeroes: last };
  const pieces = Array.from(args.matchAll(/"((?:\\x[\da-f]{2})*)"/g), ([, hex = '']) =>
    Buffer.from(hex.replaceAll(String.raw`\x`, ''), 'hex'),
  );
  const bytes = Buffer.concat(pieces);
  if (bytes.length !== result) throw new Error(`${bytes.length} bytes shown of ${result}`);
  return { offset: name === 'pwritev2' ? beforeLast : last, bytes };
}

/** A file after a power cut. */
export interface State {
  readonly atMicros: number;
  readonly file: Uint8Array;
}

/** States of the file after cuts at random moments of the record, some for each (K1, K3). */
export function* statesAfterCuts(
  initial: Uint8Array,
  changes: readonly Change[],
  moments: number,
  random: Random,
): Generator<State> {
  const all = [...new Set(changes.flatMap(({ began, stableAt }) => [began, stableAt]))];
  const finite = all.filter((at) => Number.isFinite(at));
  for (const atMicros of random.shuffle(finite).slice(0, moments)) {
    const begun = changes.filter(({ began }) => began <= atMicros);
    const open = begun.filter(({ stableAt }) => stableAt > atMicros);
    const half = (): Change[] => open.filter(() => random.chance(0.5));
    const subsets = open.length === 0 ? [[]] : [[], open, half(), half(), half()];
    for (const kept of subsets) {
      yield { atMicros, file: fileAfter(initial, begun, open, kept, random) };
    }
  }
}

/** The file when no power is cut. */
export function fileInTheEnd(initial: Uint8Array, changes: readonly Change[]): Uint8Array {
  return fileAfter(initial, changes, [], [], new Random(1));
}

function fileAfter(
  initial: Uint8Array,
  begun: readonly Change[],
  open: readonly Change[],
  kept: readonly Change[],
  random: Random,
): Uint8Array {
  const lost = new Set(open.filter((change) => !kept.includes(change)));
  const there = begun.filter((change) => !lost.has(change));
  const ends = there.map(({ offset, bytes }) => offset + (bytes?.length ?? 0));
  const file = new Uint8Array(Math.max(initial.length, ...ends));
  file.set(initial);
  let end = initial.length;
  for (const change of there) {
    const { offset, bytes, zeroes, resizes } = change;
    const torn = change === kept.at(-1);
    if (resizes === true) {
      file.fill(0, offset, Math.max(offset, end));
      end = offset;
    } else if (zeroes !== undefined) {
      file.fill(0, offset, Math.min(offset + zeroes, end));
    } else if (bytes !== undefined) {
      const part = torn ? bytes.subarray(0, wholeSectors(bytes, random)) : bytes;
      file.set(part, offset);
      end = Math.max(end, offset + part.length);
    }
  }
  return file.subarray(0, end);
}

function wholeSectors(bytes: Uint8Array, random: Random): number {
  const sectors = Math.ceil(bytes.length / SECTOR_BYTES);
  return Math.min(bytes.length, random.below(sectors + 1) * SECTOR_BYTES);
}

/** Which stamps each sector may carry at a moment (C1, C2), if it had these at first. */
export function allowedAt(
  asked: readonly Asked[],
  at: number,
  initial: readonly number[],
): ReadonlySet<number>[] {
  const acknowledged = (ask: Asked, by: number): boolean => ask.ended !== null && ask.ended <= by;
  const flushes = asked.filter((ask) => ask.kind === 'flush' && acknowledged(ask, at));
  const flushedFrom = Math.max(0, ...flushes.map(({ began }) => began));
  const values = initial.map((stamp) => new Set([stamp]));
  for (const ask of asked) {
    if (ask.kind === 'flush' || ask.began > at) continue;
    const isStable =
      acknowledged(ask, flushedFrom) || (ask.kind === 'fua' && acknowledged(ask, at));
    for (const sector of values.slice(ask.first, ask.first + ask.sectors)) {
      if (isStable && ask.kind !== 'trim') sector.clear();
      sector.add(ask.stamp);
    }
  }
  return values;
}

/** The number that each sector begins with. */
export function stampsOf(disk: Uint8Array): number[] {
  const view = new DataView(disk.buffer, disk.byteOffset, disk.byteLength);
  return Array.from({ length: disk.length / SECTOR_BYTES }, (_, sector) =>
    Number(view.getBigUint64(sector * SECTOR_BYTES, true)),
  );
}
