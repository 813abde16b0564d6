import { describe, expect, it } from 'vitest';
import { runRow, TINY_BUDGET } from '../bench/measure.ts';
import { loadNative, nativeNotes } from '../bench/native.ts';
import { formatHeadings, formatRow } from '../bench/report.ts';
import type { Row } from '../bench/row.ts';
import { ROWS } from '../bench/rows/index.ts';

/** A row of contenders that do nothing, with these results. */
function rowOf(ours: number, ...peers: number[]): Row {
  const contender = (result: number) => ({
    name: `says ${result}`,
    run: () => undefined,
    hash: () => result,
  });
  const contest = { operations: 1, ours: contender(ours), peers: peers.map(contender) };
  return { name: 'made up', unit: 'call', setup: () => Promise.resolve(contest) };
}

describe('the bench', () => {
  it('has a name for each row', () => {
    expect(new Set(ROWS.map((row) => row.name)).size).toBe(ROWS.length);
  });

  it.each(ROWS)('runs: $name', async (row) => {
    const result = await runRow(row, TINY_BUDGET);
    expect(result.ours.nanoseconds).toBeGreaterThan(0);
    expect(result.peers.length).toBeGreaterThan(0);
    for (const peer of result.peers) expect(peer.nanoseconds).toBeGreaterThan(0);
    expect(formatRow(result)).toHaveLength(result.peers.length);
  });

  it('compares with C', (context) => {
    if (loadNative('sort', 'O2') === undefined) context.skip(nativeNotes().join());
    expect(nativeNotes()).toEqual([]);
  });

  it('does not compare those that compute different things', async () => {
    await expect(runRow(rowOf(1, 1, 2), TINY_BUDGET)).rejects.toThrow('says 2 has another result');
  });

  it('prints our time where there is nobody to compare with', async () => {
    const result = await runRow(rowOf(7), TINY_BUDGET);
    const [line] = formatRow(result);
    expect(line).toMatch(/^made up .* 00000007$/);
    expect(formatHeadings()).toContain('ours/peer');
  });
});
