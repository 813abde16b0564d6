/** What nbdinfo, nbdcopy and nbdsh, the programs of libnbd, do with `sluice serve`. */

import { expect } from 'vitest';
import { type Outcome, run, succeed } from '../../cli/sluice.ts';
import { systemPath } from '../../e2e/image.ts';
import { BLOCK_STATUS, FLUSH, FUA, READ, TRIM, WRITE, WRITE_ZEROES } from '../wire.ts';
import { type Column, no, NOT_APPLICABLE, type Work, yes } from './cells.ts';
import type { ServerFeature } from './features.ts';
import { DATA_BYTES, expectSame, isVersion, type Place, SIZE, uriOf } from './places.ts';
import { everyWay, type Served } from './serving.ts';

const EXTENDED_HEADERS = 11;
const HALF = DATA_BYTES / 2;
/** The first libnbd with extended headers; Debian 12 has 1.14. */
export const NEEDS_LIBNBD = 'needs libnbd ≥ 1.18';

/** Extended headers are asked for by the libnbd that has them, and by no other. */
export function asksByVersion(work: (at: Served) => Promise<unknown>): Work<Served> {
  return async (at) => {
    const hasThem = await isVersion([1, 18], 'nbdinfo', ['--version'], /libnbd (\d+)\.(\d+)/);
    const { options } = await at.tap.during(() => work(at));
    expect(options.includes(EXTENDED_HEADERS)).toBe(hasThem);
  };
}

// nbdinfo looks at an export, and says what the server can.

async function look(place: Place): Promise<void> {
  const { TLS, exports } = JSON.parse(await succeed('nbdinfo', ['--json', uriOf(place)])) as {
    TLS: boolean;
    exports: unknown[];
  };
  expect(exports).toMatchObject([{ 'export-name': place.name, 'export-size': SIZE }]);
  expect(TLS).toBe(place.tls !== undefined);
}

const can =
  (what: string): Work<Served> =>
  async ({ scratch }) => {
    await succeed('nbdinfo', ['--can', what, uriOf(scratch)]);
  };

type Extent = readonly [offset: number, length: number, type: number];

async function expectMap(place: Place, context: string, expected: Extent[]): Promise<void> {
  const args = [`--map=${context}`, '--json', uriOf(place)];
  const found = JSON.parse(await succeed('nbdinfo', args)) as unknown[];
  expect(found).toMatchObject(expected.map(([offset, length, type]) => ({ offset, length, type })));
}

const REST = SIZE - DATA_BYTES;

/** Where the places of a map are whose chain has two images. */
export const DEPTHS: Extent[] = [
  [0, HALF, 2],
  [HALF, HALF, 1],
  [DATA_BYTES, REST, 0],
];
export const DIRTY: Extent[] = [
  [0, HALF, 0],
  [HALF, HALF, 1],
  [DATA_BYTES, REST, 0],
];

export const NBDINFO: Column<Served, ServerFeature> = {
  name: 'nbdinfo',
  peers: ['nbdinfo', 'openssl'],
  cells: {
    raw: yes(({ raw }) => look(raw)),
    qcow2: yes(({ qcow2 }) => look(qcow2)),
    'read, write': NOT_APPLICABLE,
    flush: yes(can('flush')),
    FUA: yes(can('fua')),
    trim: yes(can('trim')),
    'write zeroes': yes(can('zero')),
    'base:allocation': yes(({ raw }) =>
      expectMap(raw, 'base:allocation', [
        [0, DATA_BYTES, 0],
        [DATA_BYTES, REST, 3],
      ]),
    ),
    'qemu:allocation-depth': yes(({ contexts }) =>
      expectMap(contexts, 'qemu:allocation-depth', DEPTHS),
    ),
    'qemu:dirty-bitmap': yes(({ contexts }) =>
      expectMap(contexts, 'qemu:dirty-bitmap:dirty', DIRTY),
    ),
    'list of exports': yes(async ({ raw }) => {
      const list = await succeed('nbdinfo', ['--list', '--json', uriOf({ ...raw, name: '' })]);
      const { exports } = JSON.parse(list) as { exports: unknown[] };
      const names = ['raw', 'qcow2', 'scratch'];
      expect(exports).toMatchObject(
        names.map((name) => ({ 'export-name': name, description: `the ${name} one` })),
      );
    }),
    'several connections': yes(can('multi-conn')),
    'extended headers': no(
      NEEDS_LIBNBD,
      asksByVersion(({ raw }) => look(raw)),
    ),
    ...everyWay((_, place) => look(place)),
  },
};

// nbdcopy copies in both directions.

async function copy(served: Served, place: Place): Promise<void> {
  const target = served.fresh('copy.img');
  await succeed('nbdcopy', [uriOf(place), target]);
  await expectSame(target, served.content);
}

function copyInto({ content, scratch }: Served, ...options: string[]): Promise<string> {
  return succeed('nbdcopy', [...options, content, uriOf(scratch)]);
}

export const NBDCOPY: Column<Served, ServerFeature> = {
  name: 'nbdcopy',
  peers: ['nbdcopy', 'nbdinfo', 'openssl'],
  cells: {
    raw: yes((at) => copy(at, at.raw)),
    qcow2: yes((at) => copy(at, at.qcow2)),
    'read, write': yes(async (at) => {
      const heard = await at.tap.during(async () => {
        await copyInto(at);
        await copy(at, at.scratch);
      });
      expect(heard.bytesOf(WRITE)).toBe(DATA_BYTES);
      expect(heard.bytesOf(READ)).toBeGreaterThanOrEqual(DATA_BYTES);
    }),
    flush: yes(async (at) => {
      const heard = await at.tap.during(() => copyInto(at, '--flush'));
      expect(heard.of(FLUSH)).not.toEqual([]);
    }),
    FUA: NOT_APPLICABLE,
    trim: NOT_APPLICABLE,
    'write zeroes': yes(async (at) => {
      const heard = await at.tap.during(() => copyInto(at));
      expect(heard.bytesOf(WRITE_ZEROES)).toBe(REST);
    }),
    'base:allocation': yes(async (at) => {
      const heard = await at.tap.during(() => copy(at, at.raw));
      expect(heard.of(BLOCK_STATUS)).not.toEqual([]);
      expect(heard.bytesOf(READ)).toBe(DATA_BYTES);
    }),
    'qemu:allocation-depth': NOT_APPLICABLE,
    'qemu:dirty-bitmap': NOT_APPLICABLE,
    'list of exports': NOT_APPLICABLE,
    'several connections': yes(async (at) => {
      const { connections } = await at.tap.during(() =>
        copyInto(at, '--connections=4', '--threads=4'),
      );
      expect(connections).toBe(4);
      await copy(at, at.scratch);
    }),
    'extended headers': no(
      NEEDS_LIBNBD,
      asksByVersion((at) => copy(at, at.raw)),
    ),
    ...everyWay(copy),
  },
};

// nbdsh runs statements of Python with a libnbd handle `h`.

export function nbdsh(args: readonly string[], input = ''): Promise<Outcome> {
  return run('nbdsh', args, { env: systemPath(), input });
}

/** Runs statements with a handle that is not connected; answers what they print. */
async function shell(...statements: string[]): Promise<string> {
  const { code, stdout, stderr } = await nbdsh(['-c', '-'], statements.join('\n'));
  if (code !== 0) throw new Error(`nbdsh: ${stderr}`);
  return stdout.trim();
}

/** The same with a handle that is connected. */
function connected(place: Place, ...statements: string[]): Promise<string> {
  const connect = ['h.set_uri_allow_local_file(True)', `h.connect_uri("${uriOf(place)}")`];
  return shell(...connect, ...statements, 'h.shutdown()');
}

async function readAll(place: Place): Promise<void> {
  const size = await connected(
    place,
    `assert h.pread(${SIZE}, 0) == b"\\x11" * ${DATA_BYTES} + bytes(${REST})`,
    `assert h.get_tls_negotiated() == ${place.tls === undefined ? 'False' : 'True'}`,
    'print(h.get_size())',
  );
  expect(size).toBe(String(SIZE));
}

/** Statements for the scratch export, and the one request that they are. */
const sends =
  (type: number, flags: number, ...statements: string[]): Work<Served> =>
  async ({ tap, scratch }) => {
    const heard = await tap.during(() => connected(scratch, ...statements));
    expect(heard.of(type)).toMatchObject([{ flags }]);
  };

/** Asks until the end has come: a reply may tell of a part of the range. */
async function extentsOf(place: Place, context: string): Promise<Extent[]> {
  const printed = await shell(
    'import json',
    `h.add_meta_context("${context}")`,
    `h.connect_uri("${uriOf(place)}")`,
    'found, at = [], 0',
    'def tell(metacontext, offset, entries, error):',
    '  global at',
    '  for length, kind in zip(entries[0::2], entries[1::2]):',
    '    found.append([at, length, kind])',
    '    at += length',
    `while at < ${SIZE}: h.block_status(${SIZE} - at, at, tell)`,
    'print(json.dumps(found))',
  );
  return JSON.parse(printed) as Extent[];
}

export const NBDSH: Column<Served, ServerFeature> = {
  name: 'nbdsh',
  peers: ['nbdsh', 'nbdinfo', 'openssl'],
  cells: {
    raw: yes(({ raw }) => readAll(raw)),
    qcow2: yes(({ qcow2 }) => readAll(qcow2)),
    'read, write': yes(
      sends(
        WRITE,
        0,
        'h.pwrite(bytes(range(256)) * 16, 8193)',
        'assert h.pread(4096, 8193) == bytes(range(256)) * 16',
      ),
    ),
    flush: yes(sends(FLUSH, 0, 'h.flush()')),
    FUA: yes(sends(WRITE, FUA, 'h.pwrite(b"x" * 3, 4095, nbd.CMD_FLAG_FUA)')),
    trim: yes(sends(TRIM, 0, 'h.trim(65536, 0)')),
    'write zeroes': yes(
      sends(WRITE_ZEROES, 0, 'h.zero(4096, 0)', 'assert h.pread(4096, 0) == bytes(4096)'),
    ),
    'base:allocation': yes(async ({ raw }) => {
      const rest = [DATA_BYTES, REST, 3];
      expect(await extentsOf(raw, 'base:allocation')).toEqual([[0, DATA_BYTES, 0], rest]);
    }),
    'qemu:allocation-depth': yes(async ({ contexts }) => {
      expect(await extentsOf(contexts, 'qemu:allocation-depth')).toEqual(DEPTHS);
    }),
    'qemu:dirty-bitmap': yes(async ({ contexts }) => {
      expect(await extentsOf(contexts, 'qemu:dirty-bitmap:dirty')).toEqual(DIRTY);
    }),
    'list of exports': yes(async ({ raw }) => {
      const printed = await shell(
        'h.set_opt_mode(True)',
        `h.connect_uri("${uriOf(raw)}")`,
        'h.opt_list(lambda name, description: print(name, "=", description))',
        'h.opt_abort()',
      );
      const names = ['raw', 'qcow2', 'scratch'];
      expect(printed.split('\n')).toEqual(names.map((name) => `${name} = the ${name} one`));
    }),
    'several connections': yes(async ({ tap, scratch }) => {
      const heard = await tap.during(() =>
        connected(
          scratch,
          'assert h.can_multi_conn()',
          'other = nbd.NBD()',
          `other.connect_uri("${uriOf(scratch)}")`,
          'other.pwrite(b"other", 100)',
          'h.flush()',
          'assert h.pread(5, 100) == b"other"',
          'other.shutdown()',
        ),
      );
      expect(heard.connections).toBe(2);
    }),
    'extended headers': no(
      NEEDS_LIBNBD,
      asksByVersion(({ raw }) => readAll(raw)),
    ),
    ...everyWay((_, place) => readAll(place)),
  },
};
