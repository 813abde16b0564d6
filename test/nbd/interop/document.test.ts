/** docs/nbd.md says what the tests of this folder, and those of hostile clients, show. */
import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

import { hostileRows } from '../hostile-rows.ts';
import { linesOf, tableOf } from './cells.ts';
import { CLIENTS } from './columns.ts';
import { CLIENT_FEATURES, SERVER_FEATURES } from './features.ts';
import { SERVERS } from './peer-columns.ts';

/** Sequences do not get lost. */
const SEQUENCES = 60;

describe('the tables in docs/nbd.md', () => {
  it('of clients are those that were run', () => {
    expect(tableOf('Clients of sluice serve')).toEqual(linesOf(SERVER_FEATURES, CLIENTS));
  });

  it('of servers are those that were run', () => {
    expect(tableOf('Servers that sluice reads and writes')).toEqual(
      linesOf(CLIENT_FEATURES, SERVERS),
    );
  });

  it('of hostile clients have every number, in order, and a file that is there', () => {
    const ids = [...new Set(hostileRows().map(({ title }) => title.slice(0, 3)))];
    const all = Array.from({ length: SEQUENCES }, (_, index) => index + 1);
    expect(ids).toEqual(all.map((number) => `N${String(number).padStart(2, '0')}`));
    const root = new URL('../../../', import.meta.url);
    for (const { file } of hostileRows()) expect(existsSync(new URL(file, root))).toBe(true);
  });
});
