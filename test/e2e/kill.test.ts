/**
 * SIGKILL under load, again and again: what a client was told to be written is there after a
 * restart, and what was in flight is old or new, sector by sector (durability section 3, raw).
 *
 * SLUICE_E2E_SEED=n repeats a run, as far as a race can be repeated; SLUICE_E2E_ROUNDS=n is the
 * number of rounds for each mode.
 */
import { beforeAll, describe, expect, it, type TestContext } from 'vitest';
import type { CacheModeName } from '../../src/cache-mode.ts';
import { NBD_CMD_READ, NbdClient } from '../cli/nbd-client.ts';
import { Folder, Running, serve } from '../cli/sluice.ts';
import { Random } from '../engine/random.ts';
import { describeWithPeers } from '../support/peers.ts';
import { MODES, obstacle, systemPath } from './image.ts';

const SECTOR_BYTES = 512;
const SLOT_SECTORS = 32;
const SLOT_BYTES = SLOT_SECTORS * SECTOR_BYTES;
const SLOTS = 64;
const SEED = Number(process.env['SLUICE_E2E_SEED'] ?? Date.now() % 1_000_000);
const ROUNDS = Number(process.env['SLUICE_E2E_ROUNDS'] ?? 3);

/** What the writer knows of a slot: the numbers of its writes; 0 is what was there before. */
interface Slot {
  /** The last write that was acknowledged. */
  acknowledged: number;
  /** The last one that an acknowledged flush or FUA covers. */
  flushed: number;
  /** A write without an answer, or 0. */
  inFlight: number;
}

interface WriterReport {
  readonly slots: readonly Slot[];
  readonly writes: number;
  readonly flushes: number;
}

/**
 * Writes slots at random, 16 at a time, every sector stamped with the number of the write; now and
 * then a flush while writes are in flight, or FUA. Ends when the server is gone; then reports.
 */
const WRITER = `
import json, random, struct, sys
import nbd
uri, seed, first, slot_sectors, slots = sys.argv[1], *map(int, sys.argv[2:])
random.seed(seed)
h = nbd.NBD()
h.connect_uri(uri)
acknowledged, flushed, in_flight = [0] * slots, [0] * slots, [0] * slots
number, writes, flushes, pending = first, 0, 0, 0
print('writing', flush=True)

def wrote(slot, number, fua):
    def answered(error):
        global pending, writes
        pending -= 1
        if error.value == 0:
            writes += 1
            acknowledged[slot] = number
            if fua: flushed[slot] = number
            in_flight[slot] = 0
        return 1
    return answered

def synced(covered):
    def answered(error):
        global pending, flushes
        pending -= 1
        if error.value == 0:
            flushes += 1
            for slot, number in enumerate(covered): flushed[slot] = max(flushed[slot], number)
        return 1
    return answered

try:
    while True:
        free = [slot for slot in range(slots) if in_flight[slot] == 0]
        if pending < 16 and free:
            if random.random() < 0.1:
                h.aio_flush(synced(list(acknowledged)))
            else:
                slot, fua = random.choice(free), random.random() < 0.1
                number += 1
                in_flight[slot] = number
                data = nbd.Buffer.from_bytearray(
                    bytearray(struct.pack('<Q', number) * 64 * slot_sectors))
                flags = nbd.CMD_FLAG_FUA if fua else 0
                h.aio_pwrite(data, slot * slot_sectors * 512, wrote(slot, number, fua), flags)
            pending += 1
            h.poll(0)
        else:
            h.poll(-1)
        if h.aio_is_closed() or h.aio_is_dead(): break
except nbd.Error:
    pass
print(json.dumps({
    'slots': [dict(acknowledged=a, flushed=f, inFlight=i)
              for a, f, i in zip(acknowledged, flushed, in_flight)],
    'writes': writes, 'flushes': flushes}))
`;

describeWithPeers(['nbdsh'], 'SIGKILL under load', () => {
  beforeAll(() => {
    process.stdout.write(`SIGKILL under load: SLUICE_E2E_SEED=${SEED}\n`);
  });

  describe.each(MODES)('with --cache %s', (mode) => {
    it('loses nothing that was acknowledged', (context) => survives(mode, context));
  });
});

async function survives(mode: CacheModeName, context: TestContext): Promise<void> {
  await using folder = await Folder.make();
  const reason = obstacle(mode, folder);
  if (reason !== undefined) context.skip(reason);
  const image = await folder.image('disk.img', SLOTS * SLOT_BYTES);
  const random = new Random(SEED + MODES.indexOf(mode));
  const before = Array<number>(SLOTS * SLOT_SECTORS).fill(0);
  let writes = 0;
  let flushes = 0;
  for (let round = 1; round <= ROUNDS; round++) {
    const options = ['-t', '--cache', mode, '-k', folder.file('a.sock'), image];
    const report = await killUnderLoad(options, round * 1_000_000, random);
    writes += report.writes;
    flushes += report.flushes;
    const after = await readStamps(options);
    expect(lost(before, after, report), `round ${round}`).toEqual([]);
    before.splice(0, before.length, ...after);
  }
  expect(writes).toBeGreaterThan(0);
  expect(flushes).toBeGreaterThan(0);
}

/** Serves, lets the writer write, and kills the server at a random moment. */
async function killUnderLoad(
  options: readonly string[],
  firstNumber: number,
  random: Random,
): Promise<WriterReport> {
  await using server = await serve(options);
  const numbers = [random.below(2 ** 31), firstNumber, SLOT_SECTORS, SLOTS].map(String);
  const python = ['-c', WRITER, server.uri, ...numbers];
  await using writer = new Running('python3', python, { env: systemPath() });
  await writer.shows(/writing/);
  await new Promise((resolve) => setTimeout(resolve, 20 + random.below(400)));
  await server.stop('SIGKILL');
  const { code, stdout, stderr } = await writer.outcome;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout.slice(stdout.indexOf('{'))) as WriterReport;
}

/** The number in every sector, read through a new server. */
async function readStamps(options: readonly string[]): Promise<number[]> {
  await using server = await serve(options);
  await using client = await NbdClient.connect(server.uri);
  const bytes = await client.request(NBD_CMD_READ, 0, SLOTS * SLOT_BYTES);
  return Array.from({ length: SLOTS * SLOT_SECTORS }, (_, sector) =>
    Number(bytes.readBigUInt64LE(sector * SECTOR_BYTES)),
  );
}

/** Every sector that is neither what was acknowledged last nor what was in flight over it. */
function lost(before: readonly number[], after: readonly number[], report: WriterReport): object[] {
  return after.flatMap((found, sector) => {
    const slot = report.slots[Math.floor(sector / SLOT_SECTORS)]!;
    const last = slot.acknowledged === 0 ? before[sector]! : slot.acknowledged;
    if (slot.flushed > slot.acknowledged) return [{ sector, found, slot, fault: 'the writer' }];
    return found === last || (slot.inFlight !== 0 && found === slot.inFlight)
      ? []
      : [{ sector, found, slot }];
  });
}
