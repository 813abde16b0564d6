/** What verbs of sluice do with qemu-nbd, nbdkit and `sluice serve`. */

import { expect } from 'vitest';
import type { Peer } from '../../../scripts/peers.mjs';
import { expectRefusal } from '../../image/scratch.ts';
import { FUA, TRIM, WRITE_ZEROES } from '../wire.ts';
import { type Cell, type Column, no, NOT_APPLICABLE, yes } from './cells.ts';
import type { ClientFeature } from './features.ts';
import { DATA_BYTES, isVersion, SIZE, writeContent } from './places.ts';
import * as peers from './peers.ts';
import type { Heard, Wiretap } from './wiretap.ts';

const { image } = peers;
const LIST = 3;
const EXTENDED_HEADERS = 11;

type Work = peers.Work;
type Use = (uri: string, work: Work, tap: Wiretap) => Promise<void>;

/** On the server that is only read. */
function reads(kind: peers.Kind, use: Use): Cell<Work> {
  return yes(async (work) => {
    const { uri, tap } = await work.shared(kind, true);
    await use(uri, work, tap);
  });
}

/** On the server whose export is overwritten, with the same. */
function writes(kind: peers.Kind, use: Use): Cell<Work> {
  return yes(async (work) => {
    const { uri, tap } = await work.shared(kind, false);
    await use(uri, work, tap);
  });
}

/** On a server with options of its own. */
function works(kind: peers.Kind, how: peers.How, use: Use): Cell<Work> {
  return yes(async (work) => {
    await using server = await peers.Tapped.start(kind, work, how);
    await use(server.uri, work, server.tap);
  });
}

/** What is never sent, whatever is done. */
function never(kind: peers.Kind, why: string, isSent: (heard: Heard) => boolean): Cell<Work> {
  return no(why, async (work) => {
    const heard = await work.heardOf(kind);
    expect(heard.requests).not.toEqual([]);
    expect(isSent(heard)).toBe(false);
  });
}

/** A server by its own address, without a wiretap. */
function direct(kind: peers.Kind, how: peers.How): Cell<Work> {
  return yes(async (work) => {
    const file = await writeContent(work.fresh('disk.img'));
    await using server = await kind.start(work, file, how);
    const uri = peers.secured(server.uri, how.tls, work);
    await peers.expectInfo(uri);
    await peers.expectWrite(uri, work);
    if (how.tls === undefined) return;
    await expectRefusal(image.info(server.uri), 'ERR_SLUICE_OPEN', /asks for TLS/);
  });
}

const readAndWrite: Use = async (uri, work) => {
  await peers.expectInfo(uri);
  await peers.expectWrite(uri, work);
};

const readOnly: Use = async (uri, work) => {
  await peers.expectCopy(uri, work);
  const copy = image.convert(work.content, uri, { format: 'raw', existing: true });
  await expect(copy).rejects.toMatchObject({ code: 'ERR_SLUICE_READ_ONLY' });
};

/** The cells that are of every server. */
function common(kind: peers.Kind) {
  return {
    'info, measure': reads(kind, (uri) => peers.expectInfo(uri)),
    'map: base:allocation': reads(kind, async (uri, work, tap) => {
      await peers.expectMap(uri, DATA_BYTES);
      peers.expectThrifty(await tap.during(() => peers.expectCopy(uri, work)));
    }),
    'read: compare, convert, dd': reads(kind, peers.expectRead),
    'write: convert': writes(kind, peers.expectWrite),
    'flush at the end': writes(kind, async (uri, work, tap) => {
      peers.expectStable(await peers.heardOfCopy(tap, uri, work));
    }),
    'write zeroes': writes(kind, async (uri, work, tap) => {
      const heard = await peers.heardOfCopy(tap, uri, work);
      expect(heard.bytesOf(WRITE_ZEROES)).toBe(SIZE - DATA_BYTES);
    }),
    'a read-only export is not written': reads(kind, readOnly),
    'unix socket': writes(kind, readAndWrite),
    TCP: direct(kind, { tcp: true }),
    'TLS, X.509': direct(kind, { tls: 'x509' }),
    'TLS, pre-shared key': direct(kind, { tls: 'psk' }),
    'list of exports': never(kind, 'no verb lists', ({ options }) => options.includes(LIST)),
    'FUA, trim': never(
      kind,
      'not sent',
      (heard) => heard.of(TRIM).length > 0 || heard.requests.some(({ flags }) => flags & FUA),
    ),
    'qemu:allocation-depth, qemu:dirty-bitmap': never(kind, 'not asked for', ({ contexts }) =>
      contexts.some((name) => name !== 'base:allocation'),
    ),
    'several connections': no<Work>('has one connection', async (work) => {
      const { uri, tap } = await work.shared(kind, false);
      expect((await peers.heardOfCopy(tap, uri, work)).connections).toBe(1);
    }),
  };
}

/** The cells that nbdkit's options alone make. */
const KIT_ONLY = {
  'an error is EIO, and told': NOT_APPLICABLE,
  'smallest block of 4 KiB': NOT_APPLICABLE,
  'no write zeroes': NOT_APPLICABLE,
  'no base:allocation': NOT_APPLICABLE,
  'no structured replies': NOT_APPLICABLE,
  'newstyle, not fixed': NOT_APPLICABLE,
  oldstyle: NOT_APPLICABLE,
} as const;

/** nbdkit without something, and with some of its filters. */
function kit(options: readonly string[], parameters: readonly string[] = []): Cell<Work> {
  return works(peers.NBDKIT, { options, parameters }, readAndWrite);
}

/** A copy asks for extended headers, and has them if the server can. */
function extended(kind: peers.Kind, isThere: () => Promise<boolean>) {
  return async (work: Work): Promise<void> => {
    const { uri, tap } = await work.shared(kind, false);
    const { options, requests } = await peers.heardOfCopy(tap, uri, work);
    expect(options).toContain(EXTENDED_HEADERS);
    const expected = await isThere();
    expect(requests.length).toBeGreaterThan(0);
    for (const { isExtended } of requests) expect(isExtended).toBe(expected);
  };
}

const NEEDED: readonly Peer[] = ['openssl'];

const OF_QEMU_NBD: Column<Work, ClientFeature> = {
  name: 'qemu-nbd',
  peers: ['qemu-nbd', ...NEEDED],
  cells: {
    ...common(peers.QEMU_NBD),
    ...KIT_ONLY,
    'extended headers': no(
      'needs QEMU ≥ 8.2',
      extended(peers.QEMU_NBD, () =>
        isVersion([8, 2], 'qemu-nbd', ['--version'], /qemu-nbd (\d+)\.(\d+)/),
      ),
    ),
  },
};

const OF_NBDKIT: Column<Work, ClientFeature> = {
  name: 'nbdkit',
  peers: ['nbdkit', ...NEEDED],
  cells: {
    ...common(peers.NBDKIT),
    'an error is EIO, and told': works(
      peers.NBDKIT,
      {
        options: ['--filter=error'],
        parameters: ['error-pread=EIO', 'error-pread-rate=100%'],
      },
      async (uri, work) => {
        const copy = image.convert(uri, work.fresh('copy.img'), { format: 'raw' });
        await expectRefusal(copy, 'ERR_SLUICE_IO', /the server reported EIO/);
      },
    ),
    'smallest block of 4 KiB': kit(
      ['--filter=blocksize-policy'],
      ['blocksize-error-policy=error', 'blocksize-minimum=4096', 'blocksize-preferred=4096'],
    ),
    'no write zeroes': kit(['--filter=nozero'], ['zeromode=none']),
    'no base:allocation': works(
      peers.NBDKIT,
      { options: ['--filter=noextents'] },
      async (uri, work) => {
        await peers.expectMap(uri, SIZE);
        await peers.expectCopy(uri, work);
      },
    ),
    'no structured replies': kit(['--no-sr']),
    'newstyle, not fixed': kit(['--mask-handshake=0']),
    oldstyle: no('has no names of exports', async (work) => {
      const how = { options: ['--oldstyle'] };
      await using server = await peers.Tapped.start(peers.NBDKIT, work, how);
      const info = image.info(server.uri);
      await expectRefusal(info, 'ERR_SLUICE_CONNECTION', /the oldstyle protocol/);
    }),
    'extended headers': no(
      'nbdkit has none',
      extended(peers.NBDKIT, () => Promise.resolve(false)),
    ),
  },
};

const OF_SLUICE: Column<Work, ClientFeature> = {
  name: 'sluice serve',
  peers: NEEDED,
  cells: {
    ...common(peers.SLUICE),
    ...KIT_ONLY,
    'extended headers': yes(extended(peers.SLUICE, () => Promise.resolve(true))),
  },
};

export const SERVERS = [OF_QEMU_NBD, OF_NBDKIT, OF_SLUICE] as const;
