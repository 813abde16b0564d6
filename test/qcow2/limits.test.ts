// More at once than the engine has room for: buffers, orders, references that were dropped.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';

import { BUILDS } from '../support/engine.ts';
import { describeWithPeers } from '../support/peers.ts';
import { KINDS } from './kinds.ts';
import { makeWithContents } from './oracle.ts';
import { run } from './runner.ts';
import type { Setup, Step } from './stream.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

const SETUP: Setup = {
  cache: 'writeback',
  metadataCacheBytes: 0,
  flushIntervalMs: 0,
  mergeBytes: 0,
  depth: 64,
  elevator: 'none',
  discard: 'unmap',
  barrier: 'off',
};

const folder = mkdtempSync(join(tmpdir(), 'sluice-limits-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** `count` steps of one kind, `strideBytes` from each other. */
function row(count: number, strideBytes: number, step: (offset: number) => Step): Step[] {
  return Array.from({ length: count }, (_, index) => step(index * strideBytes));
}

function read(length: number): (offset: number) => Step {
  return (offset) => ({ do: 'read', offset, length });
}

function write(length: number): (offset: number) => Step {
  return (offset) => ({
    do: 'write',
    offset,
    length,
    value: offset / 512,
    fua: false,
    barrier: false,
  });
}

function zeroes(length: number, mayUnmap: boolean): (offset: number) => Step {
  return (offset) => ({ do: 'zeroes', offset, length, mayUnmap, fua: false, barrier: false });
}

const TABLES = 256;
/** What one L2 table of 512-byte clusters covers. */
const TABLE_BYTES = 32 * KIB;

interface Case {
  readonly title: string;
  readonly kind: string;
  readonly steps: readonly Step[];
}

const CASES: readonly Case[] = [
  {
    title: 'reads of more compressed clusters than there are buffers',
    kind: 'zlib, 2M clusters',
    steps: row(8, 2 * MIB, read(4 * KIB)),
  },
  {
    title: 'copies of more clusters than there are buffers',
    kind: 'a snapshot, 2M clusters',
    steps: row(10, 2 * MIB, write(1000)),
  },
  {
    title: 'reads in more L2 tables than can be loaded at once',
    kind: 'a refcount table about to grow',
    steps: row(TABLES, TABLE_BYTES, read(512)),
  },
  {
    title: 'writes in more L2 tables than are kept',
    kind: '512-byte clusters',
    steps: row(TABLES, TABLE_BYTES, write(700)),
  },
  {
    title: 'more clusters than the refcount table counts',
    kind: 'a refcount table about to grow',
    steps: row(9, MIB, write(MIB)),
  },
  {
    title: 'more clusters than a refcount table of wide counts has room for',
    kind: '512-byte clusters, 64-bit refcounts',
    steps: row(4, MIB, write(MIB)),
  },
  {
    title: 'zeroes over more runs than the list of dropped references holds',
    kind: 'clusters in disorder',
    steps: [
      zeroes(3 * MIB, true)(0),
      write(64 * KIB)(0),
      { do: 'discard', offset: 0, length: MIB },
    ],
  },
  {
    title: 'many small discards between writes to the same clusters',
    kind: 'clusters in disorder',
    steps: row(4400, 512, (offset) => ({ do: 'discard', offset, length: 512 })).flatMap(
      (step, index) => [step, write(256)(index * 512)],
    ),
  },
];

describeWithPeers(['qemu-img', 'qemu-io'], 'a qcow2 disk has time for', () => {
  for (const cache of ['writeback', 'none'] as const) {
    it.each(CASES.map((one) => [one.title, one] as const))(
      `%s, ${cache}`,
      async (_, { kind: name, steps }) => {
        const kind = KINDS.find((one) => one.name === name);
        expect(kind).toBeDefined();
        const made = makeWithContents(kind!, mkdtempSync(join(folder, 'image-')));
        await run(made, { setup: { ...SETUP, cache }, steps }, BUILDS[0]!.module);
      },
    );
  }
});
