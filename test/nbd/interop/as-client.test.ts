/** Verbs of sluice, with the servers that people have. */
import { afterAll, beforeAll } from 'vitest';

import { describeWithPeers } from '../../support/peers.ts';
import { runColumns } from './cells.ts';
import { SERVERS } from './peer-columns.ts';
import { Work } from './peers.ts';

describeWithPeers(['openssl'], 'verbs of sluice and other servers', () => {
  let work: Work;
  beforeAll(async () => {
    work = await Work.make();
  });
  afterAll(() => work[Symbol.asyncDispose]());

  runColumns(SERVERS, () => work);
});
