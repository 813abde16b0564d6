// A Linux guest is killed while it writes and syncs files, alone or together with its back-end:
// every file that it has acknowledged is there.
//
// SLUICE_E2E_SEED=n repeats a run, as far as a race can be repeated; SLUICE_E2E_ROUNDS=n is the
// number of rounds for each case.

import { expect, it } from 'vitest';

import { Folder } from '../cli/sluice.ts';
import { Random } from '../engine/random.ts';
import { describeWithGuest } from '../support/guests.ts';
import { BackEnd } from './back-end.ts';
import { acknowledged, lostFiles, writerOf } from './files.ts';
import { checkTables, ext4Image, FORMATS, servingOf, type Stored } from './images.ts';
import { bootUml } from './uml.ts';

const SEED = Number(process.env['SLUICE_E2E_SEED'] ?? Date.now() % 1_000_000);
const ROUNDS = Number(process.env['SLUICE_E2E_ROUNDS'] ?? 3);
const ROOM_MS = 60_000 + 10_000 * ROUNDS;
const SIZE_BYTES = 128 << 20;
const WRITING_MS = 1500;

const cases = FORMATS.flatMap((format) =>
  (['the guest', 'the guest and its back-end'] as const).map((killed) => ({ format, killed })),
);

describeWithGuest('uml', ['mkfs.ext4', 'qemu-img'], 'a crash', () => {
  it.for(cases)('of $killed loses no synced file ($format)', { timeout: ROOM_MS }, async (on) => {
    await using folder = await Folder.make();
    const image = await ext4Image(folder, on.format, SIZE_BYTES);
    const random = new Random(SEED + cases.indexOf(on));
    const names: string[] = [];
    for (let round = 1; round <= ROUNDS; round++) {
      const both = on.killed !== 'the guest';
      names.push(...(await crash(folder, { image, format: on.format, both, round, random })));
      if (on.format === 'qcow2') await checkTables(image, true);
      const where = `round ${round}, SLUICE_E2E_SEED=${SEED}`;
      expect(await lostFiles(folder, { image, format: on.format }, names), where).toEqual([]);
    }
    process.stdout.write(`${ROUNDS} crashes of ${on.killed}: ${names.length} files are there\n`);
    expect(names.length).toBeGreaterThanOrEqual(ROUNDS);
  });
});

interface Crash extends Stored {
  /** The back-end is killed, too. */
  readonly both: boolean;
  readonly round: number;
  readonly random: Random;
}

/** Answers the files that the guest has acknowledged. */
async function crash(folder: Folder, options: Crash): Promise<string[]> {
  const { image, format, both, round, random } = options;
  await using backEnd = await BackEnd.serve(folder, servingOf(folder, format, image));
  await using guest = await bootUml(folder, backEnd.socket, writerOf(round));
  await guest.shows(/ACK/);
  await new Promise((resolve) => setTimeout(resolve, random.below(WRITING_MS)));
  const victims = both ? random.shuffle([guest, backEnd]) : [guest];
  await Promise.all(victims.map((victim) => victim.stop('SIGKILL')));
  const { stdout } = await guest.outcome;
  if (!both) expect(await backEnd.stop()).toMatchObject({ code: 0 });
  return acknowledged(stdout);
}
