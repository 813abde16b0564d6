// A Linux guest is killed while it writes and syncs files, alone or together with its back-end:
// every file that it has acknowledged is there.
//
// SLUICE_E2E_SEED=n repeats a run, as far as a race can be repeated; SLUICE_E2E_ROUNDS=n is the
// number of rounds for each case.

import { expect, it } from 'vitest';

import { Folder, run, SLUICE, succeed } from '../cli/sluice.ts';
import { systemPath } from '../e2e/image.ts';
import { Random } from '../engine/random.ts';
import { describeWithGuest } from '../support/guests.ts';
import { BackEnd } from './back-end.ts';
import { acknowledged, lostFiles, writerOf } from './files.ts';
import { type Format, FORMATS } from './images.ts';
import { bootUml } from './uml.ts';

const SEED = Number(process.env['SLUICE_E2E_SEED'] ?? Date.now() % 1_000_000);
const ROUNDS = Number(process.env['SLUICE_E2E_ROUNDS'] ?? 3);
const ROOM_MS = 60_000 + 10_000 * ROUNDS;
const SIZE_BYTES = 128 << 20;
const WRITING_MS = 1500;
/** `sluice check` has found clusters that nobody uses, and nothing else. */
const LEAKS = 3;

const cases = FORMATS.flatMap((format) =>
  (['the guest', 'the guest and its back-end'] as const).map((killed) => ({ format, killed })),
);

describeWithGuest('uml', ['mkfs.ext4', 'qemu-img'], 'a crash', () => {
  it.for(cases)('of $killed loses no synced file ($format)', { timeout: ROOM_MS }, async (on) => {
    await using folder = await Folder.make();
    const image = await fileSystem(folder, on.format);
    const random = new Random(SEED + cases.indexOf(on));
    const names: string[] = [];
    for (let round = 1; round <= ROUNDS; round++) {
      const both = on.killed !== 'the guest';
      names.push(...(await crash(folder, { image, format: on.format, both, round, random })));
      if (on.format === 'qcow2') await checkTables(image);
      const where = `round ${round}, SLUICE_E2E_SEED=${SEED}`;
      expect(await lostFiles(folder, { image, format: on.format }, names), where).toEqual([]);
    }
    process.stdout.write(`${ROUNDS} crashes of ${on.killed}: ${names.length} files are there\n`);
    expect(names.length).toBeGreaterThanOrEqual(ROUNDS);
  });
});

/** An image with an ext4 file system; that of qcow2 is in its backing file. */
async function fileSystem(folder: Folder, format: Format): Promise<string> {
  const raw = await folder.image('disk.img', SIZE_BYTES);
  await succeed('mkfs.ext4', ['-q', '-F', raw], { env: systemPath() });
  if (format === 'raw') return raw;
  const image = folder.file('disk.qcow2');
  const backing = ['-b', raw, '-F', 'raw'];
  await succeed('qemu-img', ['create', '-q', '-f', format, ...backing, image]);
  return image;
}

interface Crash {
  readonly image: string;
  readonly format: Format;
  /** The back-end is killed, too. */
  readonly both: boolean;
  readonly round: number;
  readonly random: Random;
}

/** Answers the files that the guest has acknowledged. */
async function crash(folder: Folder, options: Crash): Promise<string[]> {
  const { image, format, both, round, random } = options;
  const allow = format === 'qcow2' ? ['--allow', folder.path] : [];
  await using backEnd = await BackEnd.serve(folder, ['-f', format, ...allow, image]);
  await using guest = await bootUml(folder, backEnd.socket, writerOf(round));
  await guest.shows(/ACK/);
  await new Promise((resolve) => setTimeout(resolve, random.below(WRITING_MS)));
  const victims = both ? random.shuffle([guest, backEnd]) : [guest];
  await Promise.all(victims.map((victim) => victim.stop('SIGKILL')));
  const { stdout } = await guest.outcome;
  if (!both) expect(await backEnd.stop()).toMatchObject({ code: 0 });
  return acknowledged(stdout);
}

/** After a kill there may be leaks. */
async function checkTables(image: string): Promise<void> {
  const check = await run(process.execPath, [SLUICE, 'check', '-f', 'qcow2', image]);
  expect([0, LEAKS], check.stdout).toContain(check.code);
  const { code, stdout } = await run('qemu-img', ['check', '-f', 'qcow2', image]);
  expect([0, LEAKS], stdout).toContain(code);
}
