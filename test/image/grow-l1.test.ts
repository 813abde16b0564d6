/** Longer L1 tables, and clusters in a row: what is there afterwards, and after a power cut. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { MemoryFile } from '../../src/image/image-file.ts';
import { checkBytes } from '../../src/image/qcow2/check.ts';
import { growL1 } from '../../src/image/qcow2/grow-l1.ts';
import { l1EntriesFor } from '../../src/image/qcow2/header-layout.ts';
import { parseHeader, type Qcow2Header } from '../../src/image/qcow2/header.ts';
import { ImageClusters } from '../../src/image/qcow2/image-clusters.ts';
import { expectSame } from '../backend/driver.ts';
import { Random } from '../engine/random.ts';
import { readGuest } from '../model/qcow2.ts';
import { describeWithPeers } from '../support/peers.ts';
import { qemu } from './bad-inputs/bases.ts';
import { type CutState, LoggedFile } from './logged-file.ts';
import { expectRefusal, imageFolder } from './scratch.ts';

const PATH = 'a.qcow2';
const MIB = 1024 * 1024;
const CLUSTER = 512;
const OLD_BYTES = MIB / 4;
const SEED = 20_261_122;

/** A growth of a disk of 256 KiB in clusters of 512 bytes: an entry of its L1 covers 32 KiB. */
interface Growth {
  readonly name: string;
  readonly refcountBits: number;
  readonly sizeBytes: number;
  /** The file is as long before: what lies there is free. */
  readonly fileBytes?: number;
  /** What there is of a device, filled with what somebody has left there. */
  readonly deviceBytes?: number;
  readonly moves: boolean;
  readonly growsRefcountTable?: true;
}

const IN_PLACE = 1.9 * MIB;
const MOVED = 9 * MIB;
/** A refcount table of one cluster covers this much with 64 bits. */
const COVERED = 64 * 64 * CLUSTER;

const GROWTHS: readonly Growth[] = [
  ...[1, 16, 64].flatMap((refcountBits): Growth[] => [
    { name: 'in its clusters', refcountBits, sizeBytes: IN_PLACE, moves: false },
    { name: 'at another place', refcountBits, sizeBytes: MOVED, moves: true },
    {
      name: 'in its clusters, on a device',
      refcountBits,
      sizeBytes: IN_PLACE,
      deviceBytes: 4 * MIB,
      moves: false,
    },
    {
      name: 'at another place, on a device',
      refcountBits,
      sizeBytes: MOVED,
      deviceBytes: 4 * MIB,
      moves: true,
    },
  ]),
  { name: 'longer than a block', refcountBits: 64, sizeBytes: 200 * MIB, moves: true },
  { name: 'longer than a block', refcountBits: 16, sizeBytes: 600 * MIB, moves: true },
  { name: 'longer than a block', refcountBits: 1, sizeBytes: 8400 * MIB, moves: true },
  {
    name: 'longer than a block, on a device',
    refcountBits: 64,
    sizeBytes: 200 * MIB,
    deviceBytes: 4 * MIB,
    moves: true,
  },
  {
    name: 'as long as a block less one',
    refcountBits: 64,
    sizeBytes: 63 * 2 * MIB,
    moves: true,
  },
  { name: 'as long as a block', refcountBits: 64, sizeBytes: 64 * 2 * MIB, moves: true },
  {
    name: 'with a longer refcount table',
    refcountBits: 64,
    sizeBytes: MOVED,
    fileBytes: COVERED - 3 * CLUSTER,
    moves: true,
    growsRefcountTable: true,
  },
  {
    name: 'behind all that the refcount table covers',
    refcountBits: 64,
    sizeBytes: MOVED,
    fileBytes: COVERED + CLUSTER,
    moves: true,
    growsRefcountTable: true,
  },
  {
    name: 'longer than a block, with a longer refcount table',
    refcountBits: 64,
    sizeBytes: 200 * MIB,
    fileBytes: COVERED - 64 * CLUSTER,
    moves: true,
    growsRefcountTable: true,
  },
  {
    name: 'longer than the refcount table covers',
    refcountBits: 64,
    sizeBytes: 8400 * MIB,
    moves: true,
    growsRefcountTable: true,
  },
];

describeWithPeers(['qemu-img', 'qemu-io'], 'a longer L1 table', () => {
  const folder = imageFolder();

  function image(refcountBits: number, extraBytes = 0, deviceBytes?: number): MemoryFile {
    const options = `cluster_size=512,refcount_bits=${refcountBits}`;
    qemu(folder, 'qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, PATH, `${OLD_BYTES}`]);
    const writes = ['write -q -P 1 0 20k', 'write -q -P 2 100k 60k', 'write -q -P 3 252k 4k'];
    qemu(folder, 'qemu-io', ['-f', 'qcow2', ...writes.flatMap((one) => ['-c', one]), PATH]);
    const made = readFileSync(join(folder, PATH));
    const bytes = new Uint8Array(Math.max(made.length, extraBytes, deviceBytes ?? 0));
    if (deviceBytes !== undefined) bytes.fill(0xa5);
    bytes.set(made);
    const { l1Offset, l1Entries } = parseHeader(bytes, PATH);
    // Nobody has said that there is nothing behind the table.
    bytes.fill(0x5a, l1Offset + l1Entries * 8, l1Offset + CLUSTER);
    return new MemoryFile(bytes);
  }

  it.for(GROWTHS)('is made $name, with refcounts of $refcountBits bits', async (growth) => {
    const { refcountBits, sizeBytes, fileBytes, deviceBytes, moves } = growth;
    const file = image(refcountBits, fileBytes, deviceBytes);
    const start = file.bytes.slice();
    const before = parseHeader(start, PATH);
    const guest = readGuest(start);
    const log = new LoggedFile(file);
    const answer = await growL1(log, before, PATH, sizeBytes, deviceBytes !== undefined);
    expectGrown(file.bytes, before, answer, sizeBytes);
    expectSame(readGuest(file.bytes), guest);
    expect(answer.l1Offset !== before.l1Offset).toBe(moves);
    const hasGrown = answer.refcountTableClusters > before.refcountTableClusters;
    expect(hasGrown).toBe(growth.growsRefcountTable === true);
    if (deviceBytes !== undefined) expect(file.sizeBytes).toBe(deviceBytes);
    let states = 0;
    for (const state of log.statesAfterCuts(start, new Random(SEED))) {
      expectSound(state, before, answer, guest);
      states++;
    }
    expect(states).toBeGreaterThan(log.epochs + 2);
  });

  it('is not made when the one that there is is long enough', async () => {
    const file = image(16);
    const before = parseHeader(file.bytes, PATH);
    const log = new LoggedFile(file);
    expect(await growL1(log, before, PATH, OLD_BYTES, false)).toEqual(before);
    expect(await growL1(log, before, PATH, 512, false)).toEqual(before);
    expect([...log.statesAfterCuts(file.bytes, new Random(SEED))]).toHaveLength(2);
  });

  it('is refused over 32 MiB, and nothing is written', async () => {
    const file = image(16);
    const start = file.bytes.slice();
    const header = parseHeader(file.bytes, PATH);
    const most = 2 ** 22 * 64 * CLUSTER;
    const refused = growL1(file, header, PATH, most + 512, false);
    await expectRefusal(refused, 'ERR_SLUICE_UNSUPPORTED', /more than 33554432; larger clusters/);
    expectSame(file.bytes, start);
    const grown = await growL1(file, header, PATH, most, false);
    expect(grown.l1Entries).toBe(2 ** 22);
    expect(checkBytes(file.bytes, grown)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  it('makes no refcount table that is longer than it may be', async () => {
    for (const sizeBytes of [MOVED, 200 * MIB]) {
      const file = image(64, COVERED + CLUSTER);
      const guest = readGuest(file.bytes);
      const header = parseHeader(file.bytes, PATH);
      const refused = growL1(file, header, PATH, sizeBytes, false, 64);
      await expectRefusal(refused, 'ERR_SLUICE_NO_SPACE', /more than 512 bytes/);
      const same = parseHeader(file.bytes, PATH);
      expect(same).toEqual(header);
      expect(checkBytes(file.bytes, same)).toMatchObject({ corruptions: 0 });
      expectSame(readGuest(file.bytes), guest);
      // Twice as long would be longer than it may be.
      const grown = await growL1(file, header, PATH, sizeBytes, false, 192);
      expect(grown.refcountTableClusters).toBeLessThanOrEqual(3);
      expect(checkBytes(file.bytes, grown)).toMatchObject({ corruptions: 0 });
    }
  });

  it('becomes the table of a disk that reads as zeroes where it is new', async () => {
    for (const sizeBytes of [IN_PLACE, MOVED]) {
      const file = image(16);
      const guest = readGuest(file.bytes);
      await growL1(file, parseHeader(file.bytes, PATH), PATH, sizeBytes, false);
      new DataView(file.bytes.buffer).setBigUint64(24, BigInt(Math.floor(sizeBytes)));
      const grown = readGuest(file.bytes);
      expectSame(grown.subarray(0, OLD_BYTES), guest);
      expect(grown.subarray(OLD_BYTES).every((byte) => byte === 0)).toBe(true);
    }
  });

  it.for([
    [1, undefined],
    [16, undefined],
    [64, undefined],
    [16, 4 * MIB],
    [64, 4 * MIB],
  ] as const)(
    'has clusters that nothing else has, in a row: refcounts of %i bits, device: %s',
    async ([refcountBits, deviceBytes]) => {
      const random = new Random(SEED + refcountBits);
      const file = image(refcountBits, 0, deviceBytes);
      const isBlockDevice = deviceBytes !== undefined;
      const guest = readGuest(file.bytes);
      const taken: { offset: number; count: number }[] = [];
      for (let round = 0; round < 12; round++) {
        const header = parseHeader(file.bytes, PATH);
        const log = new LoggedFile(file);
        const clusters = await ImageClusters.of(log, header, isBlockDevice);
        const count = random.pick([1, 2, 7, 63, 64, 65, 130, 1 + random.below(300)]);
        const offset = await clusters.takeRun(count);
        expect(log.unsynced).toBe(0);
        for (let at = 0; at < count; at++) {
          expect(await clusters.refcount(offset + at * CLUSTER)).toBe(1);
        }
        await file.write(offset, new Uint8Array(count * CLUSTER).fill(0xee));
        taken.push({ offset, count });
        const [single = 0] = await clusters.take(1);
        await file.write(single, new Uint8Array(CLUSTER).fill(0xee));
        taken.push({ offset: single, count: 1 });
      }
      expectApart(taken);
      const leaks = taken.reduce((sum, { count }) => sum + count, 0);
      const found = checkBytes(file.bytes, parseHeader(file.bytes, PATH));
      expect(found).toMatchObject({ corruptions: 0, leaks });
      expectSame(readGuest(file.bytes), guest);
      if (isBlockDevice) expect(file.sizeBytes).toBe(deviceBytes);
      const last = await ImageClusters.of(file, parseHeader(file.bytes, PATH), isBlockDevice);
      for (const { offset, count } of taken) await last.release(offset, count);
      const after = checkBytes(file.bytes, parseHeader(file.bytes, PATH));
      expect(after).toMatchObject({ corruptions: 0, leaks: 0 });
    },
  );
});

/** Nothing is lost, nothing leaks, and the table is as long as it has to be. */
function expectGrown(
  bytes: Uint8Array,
  before: Qcow2Header,
  answer: Qcow2Header,
  sizeBytes: number,
): void {
  const header = parseHeader(bytes, PATH);
  expect(answer).toEqual(header);
  expect(header.l1Entries).toBe(l1EntriesFor(before, sizeBytes));
  expect(header.l1Entries).toBe(Math.ceil(sizeBytes / (64 * CLUSTER)));
  expect(header.sizeBytes).toBe(OLD_BYTES);
  const { corruptions, leaks, findings } = checkBytes(bytes, header);
  expect({ corruptions, leaks, findings }).toEqual({ corruptions: 0, leaks: 0, findings: [] });
}

/** M1. */
function expectSound(
  { epoch, bytes }: CutState,
  before: Qcow2Header,
  answer: Qcow2Header,
  guest: Uint8Array,
): void {
  const found = parseHeader(bytes, PATH);
  const isOld = found.l1Offset === before.l1Offset && found.l1Entries === before.l1Entries;
  const isNew = found.l1Offset === answer.l1Offset && found.l1Entries === answer.l1Entries;
  expect(isOld || isNew, `epoch ${epoch}`).toBe(true);
  const { corruptions, checkErrors, findings } = checkBytes(bytes, found);
  const said = findings.filter((text) => !text.includes('leak')).slice(0, 3);
  expect({ corruptions, checkErrors }, `${epoch}: ${said.join('; ')}`).toEqual({
    corruptions: 0,
    checkErrors: 0,
  });
  expect(Buffer.compare(readGuest(bytes), guest), `epoch ${epoch}`).toBe(0);
}

function expectApart(taken: readonly { offset: number; count: number }[]): void {
  const sorted = taken.toSorted((a, b) => a.offset - b.offset);
  for (const [index, { offset, count }] of sorted.entries()) {
    const next = sorted[index + 1]?.offset ?? Infinity;
    expect(offset + count * CLUSTER).toBeLessThanOrEqual(next);
  }
}
