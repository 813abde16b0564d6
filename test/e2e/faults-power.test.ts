/**
 * F23 and F24 for raw: a served disk under load, and every state that a power cut could have left
 * of it (power-cuts.ts). The engine alone is cut in test/engine/simulator.ts.
 *
 * SLUICE_E2E_SEED=n repeats the load and the cuts, as far as a race can be repeated.
 */
import { readFile } from 'node:fs/promises';
import { beforeAll, expect, it, type TestContext } from 'vitest';
import type { CacheModeName } from '../../src/cache-mode.ts';
import { Random } from '../engine/random.ts';
import { describeWithPeers } from '../support/peers.ts';
import { CLEAN_END, Faulty, LATCHED_END, MIB } from './faults.ts';
import { axesOf } from './image.ts';
import {
  type Asked,
  cutPower,
  forgotten,
  kernelWrites,
  type Loss,
  promisedStable,
  SECTOR_BYTES,
} from './power-cuts.ts';

const SECTORS = 64;
const SEED = Number(process.env['SLUICE_E2E_SEED'] ?? Date.now() % 1_000_000);

/**
 * 200 requests, up to 12 in flight, never two writes to one sector; each write with a number of
 * its own in every sector.
 */
const LOAD = `
import random, struct
random.seed(SEED)
asked, flying = [], []
busy = set()
stamp = 0
class Asked:
    def __init__(self, kind, stamp, first, sectors):
        self.kind, self.stamp, self.first, self.sectors = kind, stamp, first, sectors
        self.ended, self.failed = None, None
        flags = FUA if kind == 'fua' else 0
        self.began = MICROS()
        if kind == 'flush': h.aio_flush(self.done)
        elif kind == 'zero':
            h.aio_zero(sectors * 512, first * 512, self.done, nbd.CMD_FLAG_NO_HOLE)
        else:
            data = bytearray(struct.pack('<Q', stamp) * 64 * sectors)
            h.aio_pwrite(nbd.Buffer.from_bytearray(data), first * 512, self.done, flags)
        busy.update(self.range())
    def range(self): return range(self.first, self.first + self.sectors)
    def done(self, error):
        if error.value == 0: self.ended = MICROS()
        else: self.failed = MICROS()
        flying.remove(self)
        busy.difference_update(self.range())
        return 1
while len(asked) < 200:
    kind = random.choices(['write', 'fua', 'zero', 'flush'], [75, 8, 5, 12])[0]
    first = random.randrange(SECTORS)
    sectors = 0 if kind == 'flush' else random.randint(1, min(8, SECTORS - first))
    if busy.intersection(range(first, first + sectors)) or len(flying) == 12:
        h.poll(-1)
        continue
    if kind in ('write', 'fua'): stamp += 1
    asked.append(Asked(kind, stamp if kind in ('write', 'fua') else 0, first, sectors))
    flying.append(asked[-1])
    if random.random() < 0.3: h.poll(0)
while flying: h.poll(-1)
say(asked=[{name: getattr(ask, name) for name in
    ('kind', 'stamp', 'first', 'sectors', 'began', 'ended', 'failed')} for ask in asked])
`;

/** Syncs that take a while: more is in flight when they end. */
const SLOW_SYNC = 'fdatasync:delay_enter=1500';
const FAULTS = [
  ['F03', 'writes fail', 'writeback', 'pwrite64:error=EIO:when=5+7', SLOW_SYNC],
  ['F03', 'direct writes fail', 'none', 'pwrite64:error=EIO:when=5+7', SLOW_SYNC],
  ['F06', 'space is short', 'none', 'pwrite64:error=ENOSPC:when=9+4', SLOW_SYNC],
  ['F14', 'a sync fails', 'writeback', 'fdatasync:error=EIO:delay_enter=1500:when=4'],
  ['F14', 'a sync of direct writes fails', 'none', 'fdatasync:error=EIO:delay_enter=1500:when=4'],
  [
    'F14, F17',
    'a shared sync fails',
    'writethrough',
    'fdatasync:error=EIO:delay_enter=1500:when=4',
  ],
  ['F17', 'stable writes fail', 'directsync', 'pwrite64:error=EIO:when=5+7', SLOW_SYNC],
  ['F30', 'zeroing fails', 'writeback', 'fallocate:error=EIO:when=2+2', SLOW_SYNC],
] as const;

describeWithPeers(['strace', 'nbdsh'], 'a power cut at any moment', () => {
  beforeAll(() => {
    process.stdout.write(`power cuts: SLUICE_E2E_SEED=${SEED}\n`);
  });

  it.for(['writeback', 'none', 'writethrough', 'directsync'] as const)(
    'F23, F24: leaves what was flushed, and tears nothing but what was not (%s)',
    async (cache, context) => {
      const { asked, states, losses } = await cut(cache, [SLOW_SYNC], context);
      expect(asked.every(({ ended }) => ended !== null)).toBe(true);
      expect(losses.slice(0, 3)).toEqual([]);
      expect(states).toBeGreaterThan(1000);
    },
  );

  it.for(FAULTS)('F23, %s: leaves what was flushed when %s meanwhile', async (row, context) => {
    const [, , cache, ...inject] = row;
    const { asked, losses } = await cut(cache, inject, context);
    expect(asked.some(({ failed }) => failed !== null)).toBe(true);
    expect(losses.slice(0, 3)).toEqual([]);
    const flushes = asked.filter(({ kind }) => kind === 'flush');
    const [firstFailed = Infinity] = flushes.flatMap(({ failed }) => failed ?? []);
    // A sync that failed stays failed (F15).
    expect(flushes.filter(({ began, ended }) => began > firstFailed && ended !== null)).toEqual([]);
  });

  it('F23: loses what was flushed when flushes do nothing: the judge can see', async (context) => {
    const { losses } = await cut('unsafe', [], context);
    expect(losses.length).toBeGreaterThan(0);
  });
});

async function cut(
  cache: CacheModeName,
  inject: readonly string[],
  context: TestContext,
): Promise<{ asked: readonly Asked[]; states: number; losses: readonly Loss[] }> {
  const dataBytes = SECTORS * SECTOR_BYTES;
  const contents = Buffer.alloc(MIB);
  const faults = { cache, inject, dataBytes, contents, poolThreads: 4 };
  await using disk = await Faulty.serve(context, faults);
  const script = `SEED, SECTORS = ${SEED}, ${SECTORS}\n${LOAD}`;
  const { asked } = (await disk.client(script)) as unknown as { asked: Asked[] };
  const latched = asked.some(({ kind, failed }) => kind === 'flush' && failed !== null);
  expect(await disk.end()).toEqual(latched ? LATCHED_END : { ...CLEAN_END, errors: ANY_WARNING });
  const image = (await readFile(disk.image)).subarray(0, dataBytes);
  expect(forgotten(image, asked)).toEqual([]);
  const promised = axesOf(cache).wce ? asked : asked.map((ask) => stableUnlessFlush(ask));
  const cuts = cutPower(kernelWrites(disk.calls()), promised, SECTORS, new Random(SEED));
  return { asked, ...cuts };
}

/** --cache unsafe warns. */
const ANY_WARNING: unknown = expect.toSatisfy((errors: string[]) =>
  errors.every((line) => line.startsWith('sluice: warning: ')),
);

/** In a mode without a write cache every write is promised what FUA promises (durability 2). */
function stableUnlessFlush(ask: Asked): Asked {
  return ask.kind === 'flush' ? ask : promisedStable(ask);
}
