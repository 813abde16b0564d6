/**
 * SIGKILL of a server of a qcow2 image: what was acknowledged as stable is there, and after the
 * flush interval the rest too; the tables hold (leaks are allowed).
 *
 * SLUICE_E2E_SEED=n repeats a run, as far as a race can be repeated; SLUICE_E2E_ROUNDS=n is the
 * number of rounds for each mode (default 10).
 */
import { readFile } from 'node:fs/promises';
import { beforeAll, expect, it, type TestContext } from 'vitest';

import type { CacheModeName } from '../../src/cache-mode.ts';
import { openDisk } from '../../src/node.ts';
import { Folder, Running, succeed } from '../cli/sluice.ts';
import { Random } from '../engine/random.ts';
import { describeWithPeers } from '../support/peers.ts';
import { axesOf, obstacle, systemPath } from './image.ts';
import * as load from './qcow2-load.ts';
import { checkImage, createImage, qemuIo, ServedImage } from './qcow2-server.ts';

const KIB = 1024;
const SECTOR_BYTES = 512;
/** Slots cross the borders of clusters. */
const SLOT_SECTORS = 21;
const SLOTS = 128;
const SIZE_BYTES = 4 * KIB * KIB;
const BACKING_LETTER = 'u';
const SEED = Number(process.env['SLUICE_E2E_SEED'] ?? Date.now() % 1_000_000);
const ROUNDS = Number(process.env['SLUICE_E2E_ROUNDS'] ?? 10);
const ROOM_MS = 60_000 + 6000 * ROUNDS;

/** A mode, and the image that it is tried on. */
const MODES = [
  ['writeback', 'cluster_size=4k', 'backing'],
  ['none', 'cluster_size=16k,extended_l2=on', 'backing'],
  ['writethrough', 'cluster_size=64k', 'empty'],
  ['directsync', 'cluster_size=4k', 'empty'],
  ['unsafe', 'cluster_size=512', 'backing'],
  ['unspecified', 'cluster_size=4k,lazy_refcounts=on,refcount_bits=1', 'backing'],
] as const;

/**
 * Writes slots at random, up to 16 at a time, each sector stamped with the number of the write, or
 * zero; now and then a flush while writes are in flight, or FUA. Ends when the server is gone; then
 * prints for each slot the writes that it may show.
 */
const WRITER = `
import json, random, struct, sys
import nbd
uri, seed, number, slot_sectors, slots, wce, syncs = sys.argv[1], *map(int, sys.argv[2:])
random.seed(seed)
h = nbd.NBD()
h.connect_uri(uri)
class Entry:
    def __init__(self, number): self.number, self.done = number, False
# Since what is stable for sure.
later = [[] for slot in range(slots)]
sure = [None] * slots
busy, pending, writes, flushes = set(), 0, 0, 0
print('writing', flush=True)

def settle(slot, entry):
    if entry not in later[slot]: return
    sure[slot] = entry.number
    del later[slot][:later[slot].index(entry) + 1]

def wrote(slot, entry, stable):
    def answered(error):
        global pending, writes
        pending -= 1
        busy.discard(slot)
        if error.value == 0:
            writes += 1
            entry.done = True
            if stable: settle(slot, entry)
        return 1
    return answered

def synced(covered):
    def answered(error):
        global pending, flushes
        pending -= 1
        if error.value == 0:
            flushes += 1
            for slot, entry in covered: settle(slot, entry)
        return 1
    return answered

def acknowledged():
    for slot in range(slots):
        done = [entry for entry in later[slot] if entry.done]
        if done: yield slot, done[-1]

def write(slot):
    global number
    number += 1
    fua, zero = random.random() < 0.1, random.random() < 0.1
    flags = nbd.CMD_FLAG_FUA if fua else 0
    entry = Entry(0 if zero else number)
    later[slot].append(entry)
    busy.add(slot)
    at, length = slot * slot_sectors * 512, slot_sectors * 512
    done = wrote(slot, entry, syncs and (fua or not wce))
    if zero: return h.aio_zero(length, at, done, flags)
    data = bytearray(struct.pack('<Q', number) * 64 * slot_sectors)
    h.aio_pwrite(nbd.Buffer.from_bytearray(data), at, done, flags)

try:
    while True:
        free = [slot for slot in range(slots) if slot not in busy]
        if pending < 16 and free:
            pending += 1
            if random.random() < 0.1: h.aio_flush(synced(list(acknowledged())))
            else: write(random.choice(free))
            h.poll(0)
        else:
            h.poll(-1)
        if h.aio_is_closed() or h.aio_is_dead(): break
except nbd.Error:
    pass
print(json.dumps({
    'slots': [dict(sure=s, later=[entry.number for entry in l]) for s, l in zip(sure, later)],
    'writes': writes, 'flushes': flushes}))
`;

/** What a slot may show: null is what was there before. */
interface Slot {
  readonly sure: number | null;
  readonly later: readonly number[];
}

interface WriterReport {
  readonly slots: readonly Slot[];
  readonly writes: number;
  readonly flushes: number;
}

const PEERS = ['nbdsh', 'qemu-img', 'qemu-io'] as const;

describeWithPeers(PEERS, 'SIGKILL under load, on a qcow2 image', () => {
  beforeAll(() => {
    process.stdout.write(`SIGKILL on qcow2: SLUICE_E2E_SEED=${SEED}\n`);
  });

  it.concurrent.for(MODES)(
    'keeps what was acknowledged as stable, and the tables: --cache %s, %s, %s',
    { timeout: ROOM_MS },
    survives,
  );
});

async function survives(
  [mode, options, under]: (typeof MODES)[number],
  context: TestContext,
): Promise<void> {
  await using folder = await Folder.make();
  const reason = obstacle(mode, folder);
  if (reason !== undefined) context.skip(reason);
  const image = await imageOver(folder, options, under === 'backing');
  const random = new Random(SEED + MODES.findIndex(([name]) => name === mode));
  let before = await stampsOf(image);
  let writes = 0;
  let flushes = 0;
  for (let round = 1; round <= ROUNDS; round++) {
    const report = await killUnderLoad(folder, image, mode, round * 1_000_000, random);
    writes += report.writes;
    flushes += report.flushes;
    const { corruptions, errors } = await checkImage(image);
    const after = await stampsOf(image);
    const found = { corruptions, errors, lost: lost(before, after, report).slice(0, 3) };
    expect({ round, ...found }).toEqual({ round, corruptions: 0, errors: 0, lost: [] });
    before = after;
  }
  expect(writes).toBeGreaterThan(0);
  expect(flushes).toBeGreaterThan(0);
}

async function imageOver(folder: Folder, options: string, backed: boolean): Promise<string> {
  if (!backed) return createImage(folder, 'disk', options, SIZE_BYTES);
  await createImage(folder, 'under', 'cluster_size=64k', SIZE_BYTES);
  const letter = BACKING_LETTER.charCodeAt(0);
  await qemuIo(folder.file('under'), [`write -q -P ${letter} 0 700k`]);
  return createImage(folder, 'disk', options, SIZE_BYTES, ['under', 'qcow2']);
}

/** Serves, lets the writer write, and kills the server at a random moment. */
async function killUnderLoad(
  folder: Folder,
  image: string,
  cache: CacheModeName,
  firstNumber: number,
  random: Random,
): Promise<WriterReport> {
  const options = ['-t', '--flush-interval', random.chance(0.5) ? '20' : '5000'];
  await using disk = await ServedImage.serve(folder, image, { cache, options, poolThreads: 4 });
  const { wce, noFlush } = axesOf(cache);
  // Without syncs no write is stable (durability 2); a flush hands the tables to the host (3).
  const promises = [wce, !noFlush].map(Number);
  const numbers = [random.below(2 ** 31), firstNumber, SLOT_SECTORS, SLOTS, ...promises];
  const python = ['-c', WRITER, disk.server.uri, ...numbers.map(String)];
  await using writer = new Running('python3', python, { env: systemPath() });
  await writer.shows(/writing/);
  await new Promise((resolve) => setTimeout(resolve, 20 + random.below(300)));
  await disk.kill();
  const { code, stdout, stderr } = await writer.outcome;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout.slice(stdout.indexOf('{'))) as WriterReport;
}

/** The number in every sector, as QEMU reads it. */
async function stampsOf(image: string): Promise<number[]> {
  const raw = `${image}.raw`;
  await succeed('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', image, raw]);
  const bytes = await readFile(raw);
  return Array.from({ length: SLOTS * SLOT_SECTORS }, (_, sector) =>
    Number(bytes.readBigUInt64LE(sector * SECTOR_BYTES)),
  );
}

/** Every sector that shows neither what is sure nor what came later. */
function lost(before: readonly number[], after: readonly number[], report: WriterReport): object[] {
  return after.flatMap((found, sector) => {
    const { sure, later } = report.slots[Math.floor(sector / SLOT_SECTORS)]!;
    const allowed = [sure ?? before[sector], ...later];
    return allowed.includes(found) ? [] : [{ sector, found, allowed }];
  });
}

const KINDS = [
  ['a new image', 'cluster_size=64k', 'writeback', undefined],
  ['subclusters over a backing file', 'cluster_size=64k,extended_l2=on', 'none', 'under'],
  ['2-bit refcounts over a backing file', 'cluster_size=4k,refcount_bits=2', 'writeback', 'under'],
  ['a data file', 'cluster_size=4k,data_file=DATA', 'writeback', undefined],
] as const;

const { trim, write, zero } = load;

/** Nothing of it is flushed. */
const UNFLUSHED = [
  [write('a', 0, 512), write('b', 30 * KIB, 9 * KIB), write('c', 3072 * KIB, 64 * KIB)],
  [zero(64 * KIB, 100 * KIB), write('d', 512, 512)],
  [trim(3072 * KIB, 16 * KIB), write('e', 300 * KIB, 512)],
];

describeWithPeers(PEERS, 'SIGKILL when the flush interval is over, on a qcow2 image', () => {
  it.concurrent.for(KINDS)(
    'loses nothing that was acknowledged before: %s',
    async ([, options, cache, under], context) => {
      await using folder = await Folder.make();
      const reason = obstacle(cache, folder);
      if (reason !== undefined) context.skip(reason);
      const image = await imageOver(folder, options, under !== undefined);
      const interval = ['-t', '--flush-interval', '100'];
      await using disk = await ServedImage.serve(folder, image, { cache, options: interval });
      const history = (await disk.client(load.clientOf(UNFLUSHED))) as load.History;
      expect(history.flat().every(({ answer }) => answer === 'ok')).toBe(true);
      await new Promise((resolve) => setTimeout(resolve, 2500));
      await disk.kill();
      const { corruptions, errors } = await checkImage(image);
      expect({ corruptions, errors }).toEqual({ corruptions: 0, errors: 0 });
      const initial = Buffer.alloc(SIZE_BYTES);
      if (under !== undefined) initial.fill(BACKING_LETTER, 0, 700 * KIB);
      const files = { folders: [folder.path] };
      await using again = await openDisk(image, { format: 'qcow2', backing: files });
      const found = await again.read(0, SIZE_BYTES);
      expect(load.damage(found, initial, history, 'acknowledged').slice(0, 3)).toEqual([]);
    },
  );
});
