/**
 * What a power cut could leave of a served disk, from two records of one run: what the kernel was
 * asked to do and when it was done (strace), and what the client asked and was told, and when.
 *
 * K1 Before the cut at time T the kernel had begun every write that began up to T.
 * K2 A write is stable when its O_DSYNC call returned up to T, or when it returned before an
 *    fdatasync began that returned good up to T, and no fdatasync had failed before that one began
 *    (durability section 6). No other write is.
 * K3 Of the writes that are not stable any subset is there, and of the last of them any prefix of
 *    whole sectors; on a sector, later ones hide earlier ones. (A sector is written whole.)
 * C1 A sector may be as the last write left it that a flush or FUA covers which was acknowledged
 *    up to T, or as any write left it that was sent later, up to T (durability section 9).
 */
import type { Random } from '../engine/random.ts';
import type { SystemCall } from '../support/strace.ts';

export const SECTOR_BYTES = 512;

/** A request of the client; times are microseconds since the epoch. */
export interface Asked {
  readonly kind: 'write' | 'fua' | 'zero' | 'flush';
  /** What each sector of a write carries; 0 for zeroes. */
  readonly stamp: number;
  readonly first: number;
  readonly sectors: number;
  readonly began: number;
  /** When it was acknowledged; null: never. */
  readonly ended: number | null;
  /** When it was refused; null: never. */
  readonly failed: number | null;
}

/** A write as the kernel saw it. */
interface KernelWrite {
  readonly first: number;
  /** What each sector gets. */
  readonly stamps: readonly number[];
  readonly began: number;
  /** From when on it is stable. */
  readonly stableAt: number;
}

/** A state after a cut that nobody was promised. */
export interface Loss {
  readonly atMicros: number;
  readonly sector: number;
  readonly found: number;
  readonly allowed: readonly number[];
}

/** The writes of the kernel's record, with the moment from which each is stable. */
export function kernelWrites(calls: readonly SystemCall[]): KernelWrite[] {
  const stableFds = new Set(
    calls
      .filter(({ name, args }) => name === 'openat' && args.includes('O_DSYNC'))
      .map(({ result }) => result),
  );
  const failed = calls.find(({ name, result }) => name === 'fdatasync' && result < 0);
  const syncs = calls.filter(
    ({ name, result, startMicros }) =>
      name === 'fdatasync' && result === 0 && startMicros < (failed?.endMicros ?? Infinity),
  );
  return calls
    .filter(({ name, result }) => /^(pwrite|fallocate)/.test(name) && result >= 0)
    .map((call) => {
      const sync = syncs.find(({ startMicros }) => startMicros >= call.endMicros);
      const ownProof = stableFds.has(Number.parseInt(call.args, 10)) && call.name !== 'fallocate';
      const stableAt = ownProof ? call.endMicros : (sync?.endMicros ?? Infinity);
      const { first, stamps } = contentsOf(call);
      return { first, stamps, began: call.startMicros, stableAt };
    });
}

/** Where a call writes, and what: the number at the start of each sector. */
function contentsOf({ name, args, result }: SystemCall): Pick<KernelWrite, 'first' | 'stamps'> {
  const numbers = args.split(', ').map(Number);
  if (name === 'fallocate') {
    const [offset = 0, length = 0] = numbers.slice(-2);
    const stamps = Array<number>(length / SECTOR_BYTES).fill(0);
    return { first: offset / SECTOR_BYTES, stamps };
  }
  const bytes = Array.from(args.matchAll(/"((?:\\x[\da-f]{2})*)"/g), ([, hex = '']) =>
    Buffer.from(hex.replaceAll(String.raw`\x`, ''), 'hex'),
  );
  const data = Buffer.concat(bytes);
  if (data.length !== result) throw new Error(`${data.length} bytes shown of ${result}`);
  const stamps = Array.from({ length: data.length / SECTOR_BYTES }, (_, sector) =>
    Number(data.readBigUInt64LE(sector * SECTOR_BYTES)),
  );
  const offset = numbers.at(name === 'pwritev2' ? -2 : -1) ?? 0;
  return { first: offset / SECTOR_BYTES, stamps };
}

/** How far to go: subsets of so many writes are all tried, of more some. */
const WHOLE_SUBSETS = 5;
const SAMPLES = 24;

/** Looks at states after cuts at every moment of the record; answers the losses, and how many. */
export function cutPower(
  writes: readonly KernelWrite[],
  asked: readonly Asked[],
  sectors: number,
  random: Random,
): { readonly states: number; readonly losses: readonly Loss[] } {
  const losses: Loss[] = [];
  let states = 0;
  for (const atMicros of momentsOf(writes, asked)) {
    const allowed = allowedAt(asked, atMicros, sectors);
    const begun = writes.filter(({ began }) => began <= atMicros);
    const isVolatile = begun.map(({ stableAt }) => stableAt > atMicros);
    const open = begun.flatMap((_, index) => (isVolatile[index] === true ? [index] : []));
    for (const kept of subsetsOf(open, random)) {
      states++;
      const disk = diskAfter(begun, isVolatile, kept, sectors, random);
      disk.forEach((found, sector) => {
        if (allowed[sector]!.has(found)) return;
        losses.push({ atMicros, sector, found, allowed: [...allowed[sector]!] });
      });
    }
  }
  return { states, losses };
}

/** Where a disk that lost no power has something else than the last acknowledged write left. */
export function forgotten(disk: Buffer, asked: readonly Asked[]): Loss[] {
  const atMicros = Number.MAX_SAFE_INTEGER;
  const sectors = disk.length / SECTOR_BYTES;
  // Without a power cut there is nothing to flush.
  const there = asked.map((ask): Asked => (ask.kind === 'flush' ? ask : promisedStable(ask)));
  return allowedAt(there, atMicros, sectors).flatMap((allowed, sector) => {
    const found = Number(disk.readBigUInt64LE(sector * SECTOR_BYTES));
    return allowed.has(found) ? [] : [{ atMicros, sector, found, allowed: [...allowed] }];
  });
}

/** A write that is as good as one with FUA. */
export function promisedStable(ask: Asked): Asked {
  return { ...ask, kind: 'fua' };
}

function momentsOf(writes: readonly KernelWrite[], asked: readonly Asked[]): number[] {
  const moments = [
    ...writes.flatMap(({ began, stableAt }) => [began, stableAt]),
    ...asked.flatMap(({ ended }) => ended ?? []),
  ];
  return [...new Set(moments)].filter((at) => Number.isFinite(at)).sort((a, b) => a - b);
}

/** C1 for every sector. The client never has two writes to a sector in flight. */
function allowedAt(asked: readonly Asked[], at: number, sectors: number): Set<number>[] {
  const acknowledged = (ask: Asked, by: number): boolean => ask.ended !== null && ask.ended <= by;
  const flushes = asked.filter((ask) => ask.kind === 'flush' && acknowledged(ask, at));
  const flushedFrom = Math.max(0, ...flushes.map(({ began }) => began));
  const values = Array.from({ length: sectors }, () => new Set([0]));
  for (const ask of asked) {
    if (ask.kind === 'flush' || ask.began > at) continue;
    const covered = acknowledged(ask, flushedFrom) || (ask.kind === 'fua' && acknowledged(ask, at));
    for (let sector = ask.first; sector < ask.first + ask.sectors; sector++) {
      if (covered) values[sector]!.clear();
      values[sector]!.add(ask.stamp);
    }
  }
  return values;
}

/** Sets of volatile writes that are kept: all of them when they are few (K3). */
function* subsetsOf(open: readonly number[], random: Random): Generator<ReadonlySet<number>> {
  if (open.length <= WHOLE_SUBSETS) {
    for (let bits = 0; bits < 2 ** open.length; bits++) {
      yield new Set(open.filter((_, index) => (bits & (1 << index)) !== 0));
    }
    return;
  }
  yield new Set();
  yield new Set(open);
  for (let sample = 0; sample < SAMPLES; sample++) {
    yield new Set(open.filter(() => random.below(2) === 0));
  }
}

function diskAfter(
  begun: readonly KernelWrite[],
  isVolatile: readonly boolean[],
  kept: ReadonlySet<number>,
  sectors: number,
  random: Random,
): number[] {
  const disk = Array<number>(sectors).fill(0);
  const last = Math.max(-1, ...kept);
  for (const [index, { first, stamps }] of begun.entries()) {
    if (isVolatile[index] === true && !kept.has(index)) continue;
    const whole = index === last ? random.below(stamps.length + 1) : stamps.length;
    for (let sector = 0; sector < whole; sector++) disk[first + sector] = stamps[sector]!;
  }
  return disk;
}
