/**
 * F23 and F24 for qcow2: a served image under load, and states that a power cut could have left of
 * it (qcow2-cuts.ts). The engine alone is cut in src/testing/qcow2.
 *
 * SLUICE_E2E_SEED=n repeats the load and the cuts, as far as a race can be repeated;
 * SLUICE_E2E_MOMENTS=n cuts at so many moments of each run (default 60), up to 5 states each.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { beforeAll, expect, it, type TestContext } from 'vitest';

import type { CacheModeName } from '../../src/cache-mode.ts';
import { MemoryFile } from '../../src/image/image-file.ts';
import { checkBytes } from '../../src/image/qcow2/check.ts';
import { readHeader } from '../../src/image/qcow2/header.ts';
import { Folder } from '../cli/sluice.ts';
import { Random } from '../engine/random.ts';
import { readGuest } from '../model/qcow2.ts';
import { describeWithPeers } from '../support/peers.ts';
import { axesOf, obstacle } from './image.ts';
import {
  allowedAt,
  type Asked,
  changesOf,
  fileInTheEnd,
  type State,
  stampsOf,
  statesAfterCuts,
} from './qcow2-cuts.ts';
import { checkImage, createImage, ServedImage, SOUND } from './qcow2-server.ts';

const SECTOR_BYTES = 512;
const SECTORS = 384;
const SIZE_BYTES = SECTORS * SECTOR_BYTES;
const MAX_DATA_BYTES = 2 ** 20;
/** What a backing file carries in sector n: this and n. */
const BACKING_STAMP = 1_000_000;
const SEED = Number(process.env['SLUICE_E2E_SEED'] ?? Date.now() % 1_000_000);
const MOMENTS = Number(process.env['SLUICE_E2E_MOMENTS'] ?? 60);
const ROOM_MS = 60_000 + 500 * MOMENTS;
/** More is in flight when syncs end. */
const SLOW_SYNC = 'fdatasync:delay_enter=1500';

/** 250 requests, up to 12 in flight, none over another; half of them on whole clusters of 4 KiB. */
const LOAD = `
import json, random, struct, time
random.seed(SEED)
MICROS = lambda: time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000
asked, flying, busy, stamp = [], [], set(), 0
class Asked:
    def __init__(self, kind, stamp, first, sectors):
        self.kind, self.stamp, self.first, self.sectors = kind, stamp, first, sectors
        self.began, self.ended = MICROS(), None
        at, length = first * 512, sectors * 512
        if kind == 'flush': h.aio_flush(self.done)
        elif kind == 'zero': h.aio_zero(length, at, self.done)
        elif kind == 'trim': h.aio_trim(length, at, self.done)
        else:
            data = bytearray(struct.pack('<Q', stamp) * 64 * sectors)
            flags = nbd.CMD_FLAG_FUA if kind == 'fua' else 0
            h.aio_pwrite(nbd.Buffer.from_bytearray(data), at, self.done, flags)
        busy.update(self.range())
    def range(self): return range(self.first, self.first + self.sectors)
    def done(self, error):
        assert error.value == 0, error.value
        self.ended = MICROS()
        flying.remove(self)
        busy.difference_update(self.range())
        return 1
while len(asked) < 250:
    kind = random.choices(['write', 'fua', 'zero', 'trim', 'flush'], [66, 8, 6, 8, 12])[0]
    grain = random.choice([1, 8])
    first = random.randrange(SECTORS // grain) * grain
    sectors = min(random.randint(1, 16 // grain) * grain, SECTORS - first)
    if kind == 'flush': first = sectors = 0
    if busy.intersection(range(first, first + sectors)) or len(flying) == 12:
        h.poll(-1)
        continue
    writes = kind in ('write', 'fua')
    if writes: stamp += 1
    asked.append(Asked(kind, stamp if writes else 0, first, sectors))
    flying.append(asked[-1])
    if random.random() < 0.3: h.poll(0)
while flying: h.poll(-1)
print(json.dumps([ask.__dict__ for ask in asked]))
`;

const ROWS = [
  ['writeback', 'cluster_size=4k', 'empty'],
  ['writeback', 'cluster_size=4k', 'backing'],
  ['none', 'cluster_size=512,refcount_bits=64', 'backing'],
  ['writethrough', 'cluster_size=16k,extended_l2=on', 'backing'],
  ['none', 'cluster_size=16k,extended_l2=on', 'empty'],
  ['directsync', 'cluster_size=4k', 'backing'],
] as const;

const PEERS = ['strace', 'nbdsh', 'qemu-img'] as const;

describeWithPeers(PEERS, 'a power cut at any moment, on a qcow2 image', () => {
  beforeAll(() => {
    process.stdout.write(`power cuts on qcow2: SLUICE_E2E_SEED=${SEED}\n`);
  });

  it.concurrent.for(ROWS)(
    'F23, F24: leaves what was flushed, and tables that hold: --cache %s, %s, %s',
    { timeout: ROOM_MS },
    async ([cache, options, under], context) => {
      const { states, faults } = await cut(cache, options, under === 'backing', context);
      expect(faults.slice(0, 3)).toEqual([]);
      expect(states).toBeGreaterThan(MOMENTS);
    },
  );

  it('F23: loses what was flushed when flushes do nothing: the judge can see', async (context) => {
    const { faults } = await cut('unsafe', 'cluster_size=4k', true, context);
    expect(faults.length).toBeGreaterThan(0);
  });
});

interface Judged {
  readonly states: number;
  readonly faults: readonly object[];
}

async function cut(
  cache: CacheModeName,
  options: string,
  isBacked: boolean,
  context: TestContext,
): Promise<Judged> {
  await using folder = await Folder.make();
  const reason = obstacle(cache, folder);
  if (reason !== undefined) context.skip(reason);
  const backing = isBacked ? backingBytes() : new Uint8Array(0);
  await writeFile(folder.file('under'), backing);
  const under = isBacked ? (['under', 'raw'] as const) : undefined;
  const image = await createImage(folder, 'disk', options, SIZE_BYTES, under);
  const initial = await readFile(image);
  const service = { cache, traced: true, inject: [SLOW_SYNC], dataBytes: MAX_DATA_BYTES } as const;
  await using disk = await ServedImage.serve(folder, image, { ...service, poolThreads: 4 });
  const asked = (await disk.client(`SEED, SECTORS = ${SEED}, ${SECTORS}\n${LOAD}`)) as Asked[];
  expect(await disk.end()).toMatchObject({ code: 0 });
  expect(await checkImage(image)).toEqual(SOUND);
  const changes = changesOf(disk.calls());
  const judge = new Judge(axesOf(cache).wce ? asked : asked.map(promised), backing);
  const file = await readFile(image);
  expect(Buffer.compare(fileInTheEnd(initial, changes), file), 'the record is whole').toBe(0);
  expect(await judge.faultsOf({ atMicros: Number.MAX_SAFE_INTEGER, file })).toEqual([]);
  const faults: object[] = [];
  let states = 0;
  for (const state of statesAfterCuts(initial, changes, MOMENTS, new Random(SEED))) {
    states++;
    faults.push(...(await judge.faultsOf(state)));
  }
  return { states, faults };
}

function backingBytes(): Uint8Array {
  const bytes = Buffer.alloc(SIZE_BYTES);
  for (let sector = 0; sector < SECTORS; sector++) {
    for (let at = 0; at < SECTOR_BYTES; at += 8) {
      bytes.writeBigUInt64LE(BigInt(BACKING_STAMP + sector), sector * SECTOR_BYTES + at);
    }
  }
  return bytes;
}

/** In a mode without a write cache every write is promised what FUA promises (durability 2). */
function promised(ask: Asked): Asked {
  return ask.kind === 'write' || ask.kind === 'zero' ? { ...ask, kind: 'fua' } : ask;
}

/** Looks at states of the image. */
class Judge {
  readonly #asked: readonly Asked[];
  readonly #backing: Uint8Array;
  readonly #initial: readonly number[];

  constructor(asked: readonly Asked[], backing: Uint8Array) {
    this.#asked = asked;
    this.#backing = backing;
    const disk = new Uint8Array(SIZE_BYTES);
    disk.set(backing);
    this.#initial = stampsOf(disk);
  }

  /** What is wrong with a state. */
  async faultsOf({ atMicros, file }: State): Promise<object[]> {
    const header = await readHeader(new MemoryFile(file), 'the image');
    const { corruptions, checkErrors, findings } = checkBytes(file, header);
    if (corruptions + checkErrors > 0) return [{ atMicros, findings: findings.slice(0, 3) }];
    const found = stampsOf(readGuest(file, this.#backing));
    const allowed = allowedAt(this.#asked, atMicros, this.#initial);
    return found.flatMap((stamp, sector) => {
      const stamps = allowed[sector]!;
      return stamps.has(stamp) ? [] : [{ atMicros, sector, stamp, allowed: [...stamps] }];
    });
  }
}
