/** A short soak (npm run soak), and that it would see what it looks for. */
import { open, readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';

import { memoryOf } from '../../scripts/soak/report.mjs';
import { Folder, Running, succeed } from '../cli/sluice.ts';
import { describeWithPeers } from '../support/peers.ts';
import { systemPath } from './image.ts';

const SOAK = new URL('../../scripts/soak.mjs', import.meta.url).pathname;
const WORKER = new URL('../../scripts/soak/worker.py', import.meta.url).pathname;

it('memory that grows for good is seen, a peak is not', () => {
  const samples = (...mib: number[]) =>
    mib.map((size) => ({ rssKib: size * 1024, descriptors: 9 }));
  expect(memoryOf(samples(50, 90, 95, 400, 100, 100, 95, 100, 100, 95)).flat).toBe(true);
  expect(memoryOf(samples(50, 90, 95, 100, 110, 120, 130, 140, 150, 160)).flat).toBe(false);
});

describeWithPeers(['nbdsh', 'qemu-img'], 'a soak', () => {
  it.each([
    ['raw', []],
    ['qcow2', ['--cache', 'none']],
  ] as const)('of %s ends well', { timeout: 60_000 }, async (format, args) => {
    await using folder = await Folder.make();
    const json = folder.file('report.json');
    const command = [SOAK, '--minutes', '0.08', '--format', format, '--json', json];
    await succeed(process.execPath, [...command, '--', ...args]);
    const report = JSON.parse(await readFile(json, 'utf8')) as Record<string, number>;
    expect(report).toMatchObject({ format, faults: [], flat: true });
    for (const what of ['reads', 'writes', 'zeroes', 'flushes', 'verifiedBytes']) {
      expect(report[what], what).toBeGreaterThan(0);
    }
  });
});

describeWithPeers(['nbdsh', 'nbdkit'], 'a worker of the soak', () => {
  it('sees a server that forgets what was written', async () => {
    await using folder = await Folder.make();
    const state = folder.file('state');
    const blocks = 64;
    await using file = await open(state, 'w');
    await file.write(new Uint8Array(blocks * 8));
    const forgetful = [
      'get_size=echo 256k',
      'pread=head -c $3 /dev/zero',
      'can_write=exit 0',
      'can_flush=exit 0',
      'can_fua=echo native',
      'can_zero=exit 0',
      'pwrite=cat > /dev/null',
      'zero=exit 0',
      'flush=exit 0',
    ];
    const work = `timeout 3 python3 ${WORKER} load "$uri" ${state} 0 ${blocks} 1 < /dev/zero`;
    const nbdkit = ['-U', '-', 'eval', ...forgetful, '--run', work];
    const env = systemPath();
    await using server = new Running('nbdkit', nbdkit, { env });
    const { stdout } = await server.outcome;
    expect(stdout).toContain('loading');
    // What it read back is not what was acknowledged.
    const check = `python3 ${WORKER} check "$uri" ${state} 0 ${blocks} 1`;
    await using again = new Running('nbdkit', [...nbdkit.slice(0, -1), check], { env });
    const report = (await again.outcome).stdout;
    expect(report).toMatch(/block \d+ has generation 0, not \d+ to \d+/);
  });
});
