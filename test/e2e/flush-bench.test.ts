/** The bench of syncs runs, counts what it says, and judges (bench/flushes.mjs). */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { Result } from '../../bench/flushes/measure.mjs';
import { formatRow, verdicts } from '../../bench/flushes/report.mjs';
import { median } from '../../bench/statistics.mjs';
import { installedServers } from '../../bench/flushes/servers.mjs';
import { IMAGE_BYTES, workloads } from '../../bench/flushes/workloads.mjs';
import { Folder, succeed } from '../cli/sluice.ts';
import { describeWithPeers } from '../support/peers.ts';

const BENCH = fileURLToPath(new URL('../../bench/flushes.mjs', import.meta.url));

function result(name: string, syncs: number[], milliseconds: number[]): Result {
  return { name, flushes: 800, syncs, milliseconds, clientShare: [0.5] };
}

describe('the judge of bench:flush', () => {
  const ours = result('sluice', [10, 30, 20], [300, 100, 200]);
  const qemu = result('qemu-nbd threads', [100, 100, 100], [1000, 1000, 1000]);

  it('compares medians with what was promised', () => {
    expect(median([3, Number.NaN, 1, 2])).toBe(2);
    expect(verdicts({ syncRatio: 0.2, wallRatio: 0.2 }, ours, qemu)).toEqual([
      'syncs <= 0.2 x qemu-nbd: held',
      'ms <= 0.2 x qemu-nbd: held',
    ]);
    expect(verdicts({ syncRatio: 0.19, wallRatio: 0.19 }, ours, qemu)).toEqual([
      'syncs <= 0.19 x qemu-nbd: BROKEN',
      'ms <= 0.19 x qemu-nbd: BROKEN',
    ]);
    expect(verdicts({ syncRatio: 1 }, ours, undefined)).toEqual([
      'syncs <= 1 x qemu-nbd: nobody to compare with',
    ]);
  });

  it('takes an exact number of syncs from every round', () => {
    const exact = { syncs: 1 };
    expect(verdicts(exact, result('sluice', [1, 1], [1, 1]), qemu)).toEqual(['1 sync: held']);
    expect(verdicts(exact, result('sluice', [1, 2], [1, 1]), qemu)).toEqual(['1 sync: BROKEN']);
    expect(verdicts(exact, result('sluice', [1, 0], [1, 1]), qemu)).toEqual(['1 sync: BROKEN']);
  });

  it('prints a line for each server, and nothing for what nobody can see', () => {
    const [row] = workloads();
    const unseen = result('qemu-nbd io_uring', [Number.NaN], [50, 100, 50]);
    const lines = formatRow(row!, [ours, qemu, unseen]);
    expect(lines).toHaveLength(3);
    expect(lines[0]).toContain('| 20 (10-30) / 800 |  | 200 (100-300) |  | 1 sync: BROKEN |');
    expect(lines[1]).toContain('| 0.20 (0.10-0.30) |');
    expect(lines[2]).toContain('| - | - | 50 (50-100) |');
  });

  it('has a name, and room on the image, for each row', () => {
    const rows = workloads(0.1);
    expect(new Set(rows.map(({ name }) => name)).size).toBe(rows.length);
    for (const { load } of rows) {
      expect(load.actors * load.regionBlocks * 4096).toBeLessThanOrEqual(IMAGE_BYTES);
    }
  });
});

describeWithPeers(['strace', 'nbdsh'], 'bench:flush', () => {
  it.for(['1 write, then', 'lockstep', '4 connections', '2 ms'])(
    'measures every server that is installed: %s',
    async (only) => {
      await using folder = await Folder.make();
      const json = folder.file('numbers.json');
      const small = ['--rounds', '1', '--scale', '0.1', '--only', only, '--json', json];
      const table = await succeed(process.execPath, [BENCH, ...small]);
      const numbers = JSON.parse(await readFile(json, 'utf8')) as Record<string, Result[]>;
      const [results = []] = Object.values(numbers);
      const slow = only === '2 ms';
      const servers = installedServers().filter(({ traceable }) => traceable || !slow);
      expect(results.map(({ name }) => name)).toEqual(servers.map(({ name }) => name));
      expect(table.trimEnd().split('\n')).toHaveLength(2 + results.length);
      for (const { name, flushes, syncs, milliseconds } of results) {
        expect(milliseconds[0]).toBeGreaterThan(0);
        // nbdkit passes every flush on: whoever counts syncs must find them all.
        if (name.startsWith('nbdkit')) expect(syncs).toEqual([flushes]);
      }
      const [ours] = results;
      expect(ours!.syncs[0]).toBeLessThanOrEqual(ours!.flushes);
      if (only === '1 write, then') expect(ours!.syncs).toEqual([1]);
      if (slow) expect(ours!.syncs[0]).toBeLessThan(ours!.flushes / 2);
    },
  );
});
