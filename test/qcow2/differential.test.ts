// The engine, QEMU and a shadow beside each other: random streams on images of every kind. Each
// answer is compared with the shadow; the closed image with what qemu-img reads, checks and maps;
// in between QEMU writes, and makes snapshots.
//
// By default the same streams every time. SLUICE_FUZZ_SECONDS=60 runs new ones for that long, over
// all kinds; SLUICE_FUZZ_SEED=n starts with that seed; SLUICE_FUZZ_KIND=name runs one kind only.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';

import { BUILDS } from '../support/engine.ts';
import { describeWithPeers } from '../support/peers.ts';
import { type Kind, KINDS } from './kinds.ts';
import { type Made, makeWithContents } from './oracle.ts';
import { Failure, run } from './runner.ts';
import { shrink } from './shrink.ts';
import { randomStream } from './stream.ts';

const SECONDS = Number(process.env['SLUICE_FUZZ_SECONDS'] ?? 0);
const FIRST_SEED = Number(process.env['SLUICE_FUZZ_SEED'] ?? (SECONDS > 0 ? Date.now() : 1));
const ONLY = process.env['SLUICE_FUZZ_KIND'];
/** Of each kind without a time; each kind begins with another one. */
const SEEDS = 1;
const CHOSEN = KINDS.filter(({ name }) => ONLY === undefined || name === ONLY);
const ROOM_MS = 120_000 + 2000 * SECONDS;

const folder = mkdtempSync(join(tmpdir(), 'sluice-differential-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The internal checks are in the debug build, the default's speed in the release build. */
const MODULES = BUILDS.map(({ module }) => module);

async function runSeed(made: Made, seed: number): Promise<void> {
  const module = MODULES[seed % 4 === 0 ? MODULES.length - 1 : 0]!;
  const stream = randomStream(made.kind, seed);
  try {
    await run(made, stream, module);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    const shrunk = await shrink(made, stream, error, module);
    const where = `kind '${made.kind.name}', seed ${seed}, step ${error.step}`;
    throw new Error(`${where}: ${shrunk}`, { cause: error });
  }
}

async function runSeeds(kind: Kind): Promise<number> {
  const made = makeWithContents(kind, join(folder, String(KINDS.indexOf(kind))));
  const end = Date.now() + (SECONDS * 1000) / CHOSEN.length;
  const first = FIRST_SEED + (SECONDS > 0 ? 0 : KINDS.indexOf(kind));
  let seed = first;
  for (; SECONDS > 0 ? Date.now() < end : seed < first + SEEDS; seed++) {
    await runSeed(made, seed);
  }
  return seed - first;
}

describeWithPeers(['qemu-img', 'qemu-io'], 'a qcow2 disk and QEMU agree', () => {
  it.each(CHOSEN.map((kind) => [kind.name, kind] as const))(
    'on an image with %s',
    async (_, kind) => {
      expect(await runSeeds(kind)).toBeGreaterThan(0);
    },
    ROOM_MS,
  );
});
