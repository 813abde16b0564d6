/** Verbs of sluice, with the servers that people have. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { describeWithPeers } from '../../support/peers.ts';
import { linesOf, runColumns, tableOf } from './cells.ts';
import { CLIENT_FEATURES } from './features.ts';
import { SERVERS } from './peer-columns.ts';
import { Work } from './peers.ts';

describe('the table of servers in docs/nbd.md', () => {
  it('is what is run here', () => {
    expect(tableOf('Servers that sluice reads and writes')).toEqual(
      linesOf(CLIENT_FEATURES, SERVERS),
    );
  });
});

describeWithPeers(['openssl'], 'verbs of sluice and other servers', () => {
  let work: Work;
  beforeAll(async () => {
    work = await Work.make();
  });
  afterAll(() => work[Symbol.asyncDispose]());

  runColumns(SERVERS, () => work);
});
