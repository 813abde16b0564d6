/** What qemu-img and qemu-io do with `sluice serve`. */

import { expect } from 'vitest';
import { succeed } from '../../cli/sluice.ts';
import { BLOCK_STATUS, FLUSH, FUA, TRIM, WRITE, WRITE_ZEROES } from '../wire.ts';
import { type Column, no, NOT_APPLICABLE, type Work, yes } from './cells.ts';
import type { ServerFeature } from './features.ts';
import { DATA_BYTES, isVersion, type Place, qemuArgs, SIZE } from './places.ts';
import { everyWay, type Served } from './serving.ts';

const EXTENDED_HEADERS = 11;
const HALF = DATA_BYTES / 2;
const NEEDS_QEMU = 'needs QEMU ≥ 8.2';
const ONE_CONNECTION = 'has one connection';

function asksByVersion(work: (at: Served) => Promise<unknown>): Work<Served> {
  return async (at) => {
    const pattern = /version (\d+)\.(\d+)/;
    const hasThem = await isVersion([8, 2], 'qemu-img', ['--version'], pattern);
    const { options } = await at.tap.during(() => work(at));
    expect(options.includes(EXTENDED_HEADERS)).toBe(hasThem);
  };
}

// qemu-img converts, compares and maps.

async function compare({ content }: Served, place: Place): Promise<void> {
  const args = qemuArgs(place);
  const file = `driver=raw,file.driver=file,file.filename=${content}`;
  const images = [file, nested(args.at(-1) ?? '')];
  const output = await succeed('qemu-img', ['compare', ...args.slice(0, -1), ...images]);
  expect(output).toContain('Images are identical.');
}

/** The options of an image that a format driver is put before. */
function nested(image: string): string {
  return ['driver=raw', ...image.split(',').map((option) => `file.${option}`)].join(',');
}

function convertInto({ content, scratch }: Served, ...options: string[]): Promise<string> {
  const [, uri = ''] = qemuArgs(scratch);
  const args = ['convert', '-n', '-f', 'raw', ...options, '--target-image-opts'];
  return succeed('qemu-img', [...args, content, nested(uri)]);
}

async function expectMap(place: Place, context: string, expected: object[]): Promise<void> {
  const chosen = context === 'base:allocation' ? [] : [`x-dirty-bitmap=${context}`];
  const args = ['map', '--output=json', ...qemuArgs(place, ...chosen)];
  expect(JSON.parse(await succeed('qemu-img', args))).toMatchObject(expected);
}

/** As a map shows a context of `x-dirty-bitmap`: what has bit 0 set is no data. */
const HALF_APART = [
  { start: 0, length: HALF, data: true },
  { start: HALF, length: HALF, data: false },
  { start: DATA_BYTES, length: SIZE - DATA_BYTES, data: true },
];

export const QEMU_IMG: Column<Served, ServerFeature> = {
  name: 'qemu-img',
  peers: ['qemu-img', 'openssl'],
  cells: {
    raw: yes((at) => compare(at, at.raw)),
    qcow2: yes((at) => compare(at, at.qcow2)),
    'read, write': yes(async (at) => {
      const heard = await at.tap.during(() => convertInto(at));
      expect(heard.bytesOf(WRITE)).toBe(DATA_BYTES);
      await compare(at, at.scratch);
    }),
    flush: yes(async (at) => {
      const heard = await at.tap.during(() => convertInto(at));
      expect(heard.of(FLUSH)).not.toEqual([]);
    }),
    FUA: yes(async (at) => {
      const heard = await at.tap.during(() => convertInto(at, '-t', 'writethrough'));
      expect(heard.of(WRITE, FUA)).toEqual(heard.of(WRITE));
      expect(heard.of(WRITE)).not.toEqual([]);
    }),
    trim: NOT_APPLICABLE,
    'write zeroes': yes(async (at) => {
      const heard = await at.tap.during(() => convertInto(at));
      expect(heard.bytesOf(WRITE_ZEROES)).toBeGreaterThanOrEqual(SIZE - DATA_BYTES);
    }),
    'base:allocation': yes(({ raw }) =>
      expectMap(raw, 'base:allocation', [
        { start: 0, length: DATA_BYTES, data: true },
        { start: DATA_BYTES, length: SIZE - DATA_BYTES, data: false, zero: true },
      ]),
    ),
    'qemu:allocation-depth': yes(({ contexts }) =>
      expectMap(contexts, 'qemu:allocation-depth', HALF_APART),
    ),
    'qemu:dirty-bitmap': yes(({ contexts }) =>
      expectMap(contexts, 'qemu:dirty-bitmap:dirty', HALF_APART),
    ),
    'list of exports': NOT_APPLICABLE,
    'several connections': no(ONE_CONNECTION, async (at) => {
      const { connections } = await at.tap.during(() => convertInto(at, '-m', '16'));
      expect(connections).toBe(1);
    }),
    'extended headers': no(
      NEEDS_QEMU,
      asksByVersion((at) => compare(at, at.raw)),
    ),
    ...everyWay(compare),
  },
};

// qemu-io does what it is told to.

async function commands(place: Place, ...wanted: string[]): Promise<string> {
  const cells = wanted.flatMap((command) => ['-c', command]);
  const args = qemuArgs(place, ...(place.name === 'scratch' ? [] : ['read-only=on']));
  const readOnly = place.name === 'scratch' ? [] : ['-r'];
  const output = await succeed('qemu-io', [...readOnly, ...cells, ...args]);
  expect(output).not.toMatch(/fail|error|invalid/i);
  return output;
}

async function readAll(place: Place): Promise<void> {
  const rest = SIZE - DATA_BYTES;
  await commands(place, `read -P 0x11 0 ${DATA_BYTES}`, `read -P 0 ${DATA_BYTES} ${rest}`);
}

/** Commands for the scratch export, and the one request that they are. */
const sends =
  (type: number, flags: number, ...wanted: string[]): Work<Served> =>
  async ({ tap, scratch }) => {
    const heard = await tap.during(() => commands(scratch, ...wanted));
    expect(heard.of(type, flags)).toHaveLength(1);
  };

/** A map in the words of qemu-io, as lengths that are allocated (true) and not. */
async function expectParts(
  place: Place,
  context: string,
  expected: readonly (readonly [length: number, isAllocated: boolean])[],
): Promise<void> {
  const output = await succeed('qemu-io', [
    '-r',
    '-c',
    'map',
    ...qemuArgs(place, 'read-only=on', ...(context === '' ? [] : [`x-dirty-bitmap=${context}`])),
  ]);
  const found = [...output.matchAll(/\(0x([0-9a-f]+)\) bytes +(not )?allocated/g)];
  expect(found.map(([, length = '', not]) => [parseInt(length, 16), not === undefined])).toEqual(
    expected,
  );
}

const THREE = [
  [HALF, true],
  [HALF, false],
  [SIZE - DATA_BYTES, true],
] as const;

export const QEMU_IO: Column<Served, ServerFeature> = {
  name: 'qemu-io',
  peers: ['qemu-io', 'qemu-img', 'openssl'],
  cells: {
    raw: yes(({ raw }) => readAll(raw)),
    qcow2: yes(({ qcow2 }) => readAll(qcow2)),
    'read, write': yes(sends(WRITE, 0, 'write -P 7 4608 8192', 'read -P 7 4608 8192')),
    flush: yes(async ({ tap, scratch }) => {
      const heard = await tap.during(() => commands(scratch, 'write 0 4096', 'flush'));
      expect(heard.of(FLUSH)).not.toEqual([]);
    }),
    FUA: yes(sends(WRITE, FUA, 'write -f -P 9 1M 64k', 'read -P 9 1M 64k')),
    trim: yes(sends(TRIM, 0, 'discard 2M 1M')),
    'write zeroes': yes(sends(WRITE_ZEROES, 0, 'write -z 1M 1M', 'read -P 0 1M 1M')),
    // A hole that reads as zeroes is allocated in the words of its map.
    'base:allocation': yes(async ({ tap, raw }) => {
      const heard = await tap.during(() => expectParts(raw, '', [[SIZE, true]]));
      expect(heard.of(BLOCK_STATUS)).not.toEqual([]);
    }),
    'qemu:allocation-depth': yes(({ contexts }) =>
      expectParts(contexts, 'qemu:allocation-depth', THREE),
    ),
    'qemu:dirty-bitmap': yes(({ contexts }) =>
      expectParts(contexts, 'qemu:dirty-bitmap:dirty', THREE),
    ),
    'list of exports': NOT_APPLICABLE,
    'several connections': no(ONE_CONNECTION, async ({ tap, raw }) => {
      expect((await tap.during(() => readAll(raw))).connections).toBe(1);
    }),
    'extended headers': no(
      NEEDS_QEMU,
      asksByVersion(({ raw }) => readAll(raw)),
    ),
    ...everyWay((_, place) => readAll(place)),
  },
};
