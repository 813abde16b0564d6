/** Every row of the table of damaged images, opened as a disk. */
import { readFileSync } from 'node:fs';
import { beforeAll, expect, it } from 'vitest';

import { MemoryFile } from '../../src/image/image-file.ts';
import { checkImage } from '../../src/image/qcow2/check.ts';
import { readHeader } from '../../src/image/qcow2/header.ts';
import type { Disk } from '../../src/index.ts';
import { makeBases } from '../image/bad-inputs/bases.ts';
import { BAD_INPUTS } from '../image/bad-inputs/rows.ts';
import { imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import type { Expected, Refusal } from './expected.ts';
import { expectChanges, expectedOf } from './expected-rows.ts';
import { bounded, expectEio, isCorrupt, makeRow, open, runStep, soon } from './stage.ts';

const MEGABYTE = 1024 * 1024;
const CONTROLS = /\p{Cc}/u;

describeWithPeers(['qemu-img', 'qemu-io'], 'a damaged qcow2 image', () => {
  const folder = imageFolder();
  beforeAll(() => makeBases(folder));

  it.each(BAD_INPUTS)('is left as it is by a reader: $id, $title', async (row) => {
    const { path, before } = makeRow(folder, row);
    await bounded(() => readOnly(path, expectedOf(row)));
    expect(readFileSync(path).equals(before)).toBe(true);
  });

  it.each(BAD_INPUTS)('gets from a writer what it may: $id, $title', async (row) => {
    const { path, before } = makeRow(folder, row);
    const expected = expectedOf(row);
    await bounded(() => writable(path, expected));
    expectChanges(before, readFileSync(path), expected);
    if (expected.marks) await refusesWriters(path);
  });

  const reported = BAD_INPUTS.filter((row) => expectedOf(row).finds !== undefined);
  it.each(reported)('is reported by the check: $id, $title', async (row) => {
    const { before } = makeRow(folder, row);
    const file = new MemoryFile(before);
    const { counts } = await checkImage(file, await readHeader(file, row.id));
    expect(counts).toHaveProperty(expectedOf(row).finds ?? '');
  });
});

async function readOnly(path: string, { refusal, reads, steps }: Expected): Promise<void> {
  if (refusal !== undefined && !reads) return isRefused(open(path), refusal);
  await using disk = await open(path);
  for (const [command, outcome, onlyRead = outcome] of steps) {
    if (!command.startsWith('write')) await runStep(disk, command, onlyRead);
    else
      await expect(disk.write(0, new Uint8Array(512))).rejects.toMatchObject({
        code: 'ERR_SLUICE_READ_ONLY',
      });
  }
  await soon(disk.close());
}

async function writable(path: string, { refusal, steps, marks }: Expected): Promise<void> {
  if (refusal !== undefined) return isRefused(open(path, { writable: true }), refusal);
  await using disk = await open(path, { writable: true });
  for (const [command, outcome] of steps) await runStep(disk, command, outcome);
  if (marks) await refusesWrites(disk);
  await soon(disk.flush());
  await soon(disk.close());
}

/** With the code and the words of the row, and nothing of the image that a terminal would obey. */
async function isRefused(opening: Promise<Disk>, { code, message }: Refusal): Promise<void> {
  const error = await opening.then(
    () => expect.unreachable('it was opened'),
    (cause: unknown) => cause as Error,
  );
  expect(error).toMatchObject({ name: 'SluiceError', code });
  expect(error.message).toMatch(message);
  expect(error.message).not.toMatch(CONTROLS);
}

/** An image that is marked corrupt takes no write of any kind, anywhere. */
async function refusesWrites(disk: Disk): Promise<void> {
  expect(isCorrupt(disk)).toBe(true);
  await runStep(disk, 'write 32M 4k', 'EIO');
  await expectEio(disk, disk.writeZeroes(0, MEGABYTE));
  await expectEio(disk, disk.discard(0, MEGABYTE));
}

async function refusesWriters(path: string): Promise<void> {
  const message = /is marked corrupt; open it read-only, or check and repair it/;
  await isRefused(open(path, { writable: true }), { code: 'ERR_SLUICE_CORRUPT', message });
  await using disk = await open(path);
  await soon(disk.close());
}
