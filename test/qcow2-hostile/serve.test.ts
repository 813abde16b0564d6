/** A sample of the damaged images behind `sluice serve`, with qemu-io as the client. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import { run, serve, sluice } from '../cli/sluice.ts';
import { makeBases } from '../image/bad-inputs/bases.ts';
import { imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import type { Outcome } from './expected.ts';
import { expectChanges, expectedOf } from './expected-rows.ts';
import { makeRow, rowOf } from './stage.ts';

const REFUSED = ['Q01', 'Q37', 'Q54', 'Q109', 'Q114'].map((id) => rowOf(id));
const OPENED = ['Q63', 'Q64', 'Q73', 'Q83', 'Q91'].map((id) => rowOf(id));

describeWithPeers(['qemu-img', 'qemu-io'], 'sluice serve with a damaged qcow2 image', () => {
  const folder = imageFolder();
  const socket = join(folder, 'case.sock');
  beforeAll(() => makeBases(folder));

  it.each(REFUSED)('refuses $id, $title', async (row) => {
    const { path, before } = makeRow(folder, row);
    const { refusal } = expectedOf(row);
    const { code, stdout, stderr } = await sluice(['serve', '-f', 'qcow2', '-k', socket, path]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(refusal?.message ?? /$^/);
    expect(stderr).toContain(`(${refusal?.code})\n`);
    expect(readFileSync(path).equals(before)).toBe(true);
  });

  it.each(OPENED)('outlives $id, $title', async (row) => {
    const { path, before } = makeRow(folder, row);
    const expected = expectedOf(row);
    await using server = await serve(['-t', '-f', 'qcow2', '-k', socket, path]);
    for (const [command, outcome] of expected.steps) await client(server.uri, command, outcome);
    expect(await server.stop()).toMatchObject({ code: 0 });
    expectChanges(before, readFileSync(path), expected);
  });

  it('Q40: serves an image that is marked corrupt for reading only', async () => {
    const { path } = makeRow(folder, rowOf('Q40'));
    await using server = await serve(['-t', '-r', '-f', 'qcow2', '-k', socket, path]);
    const read = await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 0x11 0 4k', server.uri]);
    expect(read).toMatchObject({ code: 0, stdout: expect.stringContaining('read 4096/4096') });
    const write = await run('qemu-io', ['-f', 'raw', '-c', 'write 0 4k', server.uri]);
    expect(write).toMatchObject({ code: 1, stderr: expect.stringMatching(/permission denied/i) });
  });
});

/** Runs a command of a row as a client. */
async function client(uri: string, command: string, outcome: Outcome): Promise<void> {
  const pattern = typeof outcome === 'number' ? command.replace(' ', ` -P ${outcome} `) : command;
  const { code, stdout, stderr } = await run('qemu-io', ['-f', 'raw', '-c', pattern, uri]);
  if (outcome === 'EIO') expect(stdout + stderr).toMatch(/failed: Input\/output error/);
  expect(code).toBe(outcome === 'EIO' ? 1 : 0);
}
