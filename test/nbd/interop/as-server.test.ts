/** Clients that people have, each with every feature of `sluice serve` that it uses. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { run } from '../../cli/sluice.ts';
import { describeWithPeers } from '../../support/peers.ts';
import { linesOf, runColumns, tableOf } from './cells.ts';
import { CLIENTS } from './columns.ts';
import { SERVER_FEATURES } from './features.ts';
import { nbdsh } from './libnbd-columns.ts';
import { uriOf } from './places.ts';
import { Served } from './serving.ts';

describe('the table of clients in docs/nbd.md', () => {
  it('is what is run here', () => {
    expect(tableOf('Clients of sluice serve')).toEqual(linesOf(SERVER_FEATURES, CLIENTS));
  });
});

describeWithPeers(['openssl'], 'sluice serve and its clients', () => {
  let served: Served;
  beforeAll(async () => {
    served = await Served.start();
  });
  afterAll(() => served[Symbol.asyncDispose]());

  runColumns(CLIENTS, () => served);

  describeWithPeers(['nbdkit', 'nbdinfo'], 'libnbd and files that a URI names', () => {
    it('nbdkit is refused them', async () => {
      for (const place of [served.x509, served.psk]) {
        const args = ['-U', '-', 'nbd', `uri=${uriOf(place)}`, '--run', 'nbdinfo "$uri"'];
        const { code, stderr } = await run('nbdkit', args);
        expect(code).not.toBe(0);
        expect(stderr).toContain('local file access');
      }
    });
  });

  describeWithPeers(['nbdsh'], 'libnbd and files that a URI names', () => {
    it('nbdsh -u is refused them', async () => {
      for (const place of [served.x509, served.psk]) {
        const { code, stderr } = await nbdsh(['-u', uriOf(place), '-c', 'h.shutdown()']);
        expect(code).not.toBe(0);
        expect(stderr).toContain('local file access');
      }
    });
  });
});
