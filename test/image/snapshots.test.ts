/** Internal snapshots beside those of qemu-img: each reads, applies and deletes the other's. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { MemoryFile } from '../../src/image/image-file.ts';
import { readHeader } from '../../src/image/qcow2/header.ts';
import { createSnapshot } from '../../src/image/qcow2/snapshot-edit.ts';
import { openDisk } from '../../src/node.ts';
import { expectSame } from '../backend/driver.ts';
import { Random } from '../engine/random.ts';
import { describeWithPeers } from '../support/peers.ts';
import { qemu } from './bad-inputs/bases.ts';
import { make, remove, type Kind } from './check-images.ts';
import { imageFolder } from './scratch.ts';
import {
  change,
  changeIn,
  type Change,
  expectQemuClean,
  isShort,
  PATH,
  qemuContent,
  qemuList,
  SNAPSHOT_KINDS,
  snapshotsOf,
} from './snapshot-images.ts';

const SEED = 20_261_122;
const READABLE = SNAPSHOT_KINDS.filter(({ encrypted }) => encrypted !== true);
const COUNTING = READABLE.filter((kind) => !isShort(kind));

/** The commands of qemu-io on the image of a folder. */
function write(folder: string, ...commands: string[]): void {
  const args = commands.flatMap((command) => ['-c', command]);
  qemu(folder, 'qemu-io', ['-f', 'qcow2', ...args, PATH]);
}

describeWithPeers(['qemu-img', 'qemu-io'], 'snapshots', () => {
  const scratch = imageFolder();

  function create(options: string, size: string): void {
    qemu(scratch, 'qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, PATH, size]);
  }

  it.for(COUNTING)('are read, applied and deleted by qemu-img: $name', async (kind) => {
    const image = make(kind);
    const { folder } = image;
    const before = qemuContent(folder);
    if (kind.name.startsWith('bitmaps')) {
      for (const name of ['first', 'second']) {
        qemu(folder, 'qemu-img', ['bitmap', '--remove', PATH, name]);
      }
    }
    const taken = await changeIn(folder, '-c', 'ours');
    await expectQemuClean(folder);
    expectSame(qemuContent(folder), before);
    expectSame(qemuContent(folder, 'ours'), before);
    const last = qemuList(folder).at(-1);
    expect(last).toMatchObject({
      id: taken.id,
      name: 'ours',
      'date-sec': taken.dateSeconds,
      'date-nsec': taken.dateNanoseconds,
      'vm-clock-sec': 0,
      'vm-clock-nsec': 0,
      'vm-state-size': 0,
      icount: 0,
    });
    if (before.length > 0) {
      write(folder, `write -q -P 99 0 ${Math.min(before.length, 5120)}`);
      await expectQemuClean(folder);
    }
    qemu(folder, 'qemu-img', ['snapshot', '-a', 'ours', PATH]);
    await expectQemuClean(folder);
    expectSame(qemuContent(folder), before);
    qemu(folder, 'qemu-img', ['snapshot', '-d', 'ours', PATH]);
    await expectQemuClean(folder);
    expectSame(qemuContent(folder), before);
    remove(image);
  });

  it.for(COUNTING)('of qemu-img are applied and deleted: $name', async (kind) => {
    const image = make(kind);
    const { folder } = image;
    const before = qemuContent(folder);
    qemu(folder, 'qemu-img', ['snapshot', '-c', 'theirs', PATH]);
    if (before.length > 0) write(folder, `write -q -P 99 0 ${Math.min(before.length, 5120)}`);
    const after = qemuContent(folder);
    if (!kind.name.startsWith('bitmaps')) {
      await changeIn(folder, '-c', 'later');
      await changeIn(folder, '-a', 'theirs');
      await expectQemuClean(folder);
      expectSame(qemuContent(folder), before);
      await changeIn(folder, '-a', 'later');
      await expectQemuClean(folder);
      expectSame(qemuContent(folder), after);
      await changeIn(folder, '-d', 'later');
    }
    await changeIn(folder, '-d', 'theirs');
    await expectQemuClean(folder);
    expectSame(qemuContent(folder), after);
    const names = qemuList(folder).map(({ name }) => name);
    expect(names).not.toContain('theirs');
    if (before.length > 0) write(folder, `write -q -P 98 0 ${Math.min(before.length, 5120)}`);
    await expectQemuClean(folder);
    remove(image);
  });

  it('of encrypted images are sound', async () => {
    const image = make(SNAPSHOT_KINDS.find(({ encrypted }) => encrypted === true) as Kind);
    for (const [how, name] of [
      ['-c', 'one'],
      ['-c', 'two'],
      ['-a', 'one'],
      ['-d', 'one'],
      ['-d', 'two'],
    ] as const) {
      await changeIn(image.folder, how, name);
      await expectQemuClean(image.folder, true);
    }
    remove(image);
  });

  it('leave the bitmaps as they are', async () => {
    const image = make(SNAPSHOT_KINDS.find(({ name }) => name === 'bitmaps') as Kind);
    const bitmaps = (): unknown => {
      const text = qemu(image.folder, 'qemu-img', ['info', '--output', 'json', PATH]);
      const info = JSON.parse(text) as { 'format-specific': { data: { bitmaps: unknown } } };
      return info['format-specific'].data.bitmaps;
    };
    const before = bitmaps();
    expect(before).toHaveLength(2);
    for (const how of ['-c', '-d'] as const) {
      await changeIn(image.folder, how, 'one');
      await expectQemuClean(image.folder);
      expect(bitmaps()).toEqual(before);
    }
    remove(image);
  });

  it('have ids one more than the highest, and the date that they are given', async () => {
    create('cluster_size=4k', '1M');
    const path = join(scratch, PATH);
    for (const name of ['a', 'b', 'c']) await changeIn(scratch, '-c', name);
    await changeIn(scratch, '-d', 'a');
    const file = new MemoryFile(readFileSync(path));
    const date = new Date('2031-02-03T04:05:06.789Z');
    const name = 'ein vierter, äöü 😀';
    const options = { name, date, isBlockDevice: false };
    await createSnapshot(file, await readHeader(file, PATH), PATH, options);
    writeFileSync(path, file.bytes);
    const found = qemuList(scratch);
    expect(found.map(({ id }) => id)).toEqual(['2', '3', '4']);
    const seconds = Math.floor(date.getTime() / 1000);
    const told = { name, 'date-sec': seconds, 'date-nsec': 789_000_000 };
    expect(found.at(-1)).toMatchObject(told);
    qemu(scratch, 'qemu-img', ['snapshot', '-c', 'next', PATH]);
    expect((await changeIn(scratch, '-c', 'last')).id).toBe('6');
    for (const each of ['b', 'c', name, 'next', 'last']) await changeIn(scratch, '-d', each);
    await expectQemuClean(scratch);
    expect((await changeIn(scratch, '-c', 'anew')).id).toBe('1');
  });

  it('are found as qemu-img finds them', async () => {
    create('cluster_size=4k', '1M');
    const path = join(scratch, PATH);
    for (const [index, name] of ['3', '1', 'd', 'd', '1'].entries()) {
      write(scratch, `write -q -P ${index + 1} 0 4k`);
      await changeIn(scratch, '-c', name);
    }
    const start = readFileSync(path);
    const outcome = (): unknown[] => [
      qemuContent(scratch)[0],
      qemuList(scratch).map(({ id }) => id),
    ];
    for (const how of ['-a', '-d'] as const) {
      for (const name of ['1', '2', '3', '4', '5', '6', 'd', '', '01']) {
        writeFileSync(path, start);
        const theirs = await settled(() =>
          qemu(scratch, 'qemu-img', ['snapshot', how, name, PATH]),
        );
        const expected = outcome();
        writeFileSync(path, start);
        const ours = await settled(() => changeIn(scratch, how, name));
        expect([name, ours, outcome()]).toEqual([name, theirs, expected]);
      }
    }
  });

  it('have the size of the disk', async () => {
    create('cluster_size=512', '100k');
    write(scratch, 'write -q -P 1 0 100k');
    await changeIn(scratch, '-c', 'small');
    qemu(scratch, 'qemu-img', ['resize', '-q', PATH, '3M']);
    write(scratch, 'write -q -P 2 2M 5k');
    await changeIn(scratch, '-c', 'large');
    const large = qemuContent(scratch);
    for (const change of [changeIn, theirs]) {
      await change(scratch, '-a', 'small');
      await expectQemuClean(scratch);
      expect(qemuContent(scratch)).toEqual(Buffer.alloc(102_400, 1));
      await change(scratch, '-a', 'large');
      await expectQemuClean(scratch);
      expectSame(qemuContent(scratch), large);
    }
    await changeIn(scratch, '-d', 'large');
    await changeIn(scratch, '-a', 'small');
    await expectQemuClean(scratch);
    expect(qemuContent(scratch)).toEqual(Buffer.alloc(102_400, 1));
  });

  it('of a disk that had nothing make it empty again', async () => {
    create('cluster_size=512', '0');
    await changeIn(scratch, '-c', 'empty');
    qemu(scratch, 'qemu-img', ['resize', '-q', PATH, '1M']);
    write(scratch, 'write -q -P 2 100k 5k');
    await changeIn(scratch, '-a', 'empty');
    await expectQemuClean(scratch);
    expect(qemuContent(scratch)).toHaveLength(0);
  });

  it('have L1 tables that are longer than a refcount block can describe', async () => {
    create('cluster_size=512,refcount_bits=64', '200M');
    write(scratch, 'write -q -P 1 0 20k', 'write -q -P 2 199M 20k');
    const before = qemuContent(scratch);
    await changeIn(scratch, '-c', 'one');
    await expectQemuClean(scratch);
    write(scratch, 'write -q -P 3 10k 20k');
    await changeIn(scratch, '-c', 'two');
    await changeIn(scratch, '-a', 'one');
    await expectQemuClean(scratch);
    expectSame(qemuContent(scratch), before);
    for (const name of ['one', 'two']) await changeIn(scratch, '-d', name);
    await expectQemuClean(scratch);
    expectSame(qemuContent(scratch), before);
  });

  it('that come and go use the same room', async () => {
    create('cluster_size=4k', '1M');
    write(scratch, 'write -q -P 1 0 100k');
    const path = join(scratch, PATH);
    const file = new MemoryFile(readFileSync(path));
    const sizes: number[] = [];
    for (let round = 0; round < 6; round++) {
      await change(file, '-c', 'a');
      await change(file, '-c', 'b');
      await change(file, '-a', 'a');
      await change(file, '-d', 'a');
      await change(file, '-d', 'b');
      sizes.push(file.sizeBytes);
    }
    expect(sizes.at(-1)).toBe(sizes[1]);
    writeFileSync(path, file.bytes);
    await expectQemuClean(scratch);
  });

  it.for(READABLE)('are right after many changes by both programs: $name', async (kind) => {
    const image = make(kind);
    const random = new Random(SEED + kind.name.length * 7);
    for (const name of ['first', 'second']) {
      if (!kind.options.includes('data_file') && kind.name === 'bitmaps') {
        qemu(image.folder, 'qemu-img', ['bitmap', '--remove', PATH, name]);
      }
    }
    await manyChanges(image.folder, random, isShort(kind));
    remove(image);
  });
});

/** Writes and changes in any order, with what every snapshot must hold. */
async function manyChanges(folder: string, random: Random, mayRefuse: boolean): Promise<void> {
  const shadows = new Map<string, Buffer>();
  for (const { name } of await snapshotsOf(readFileSync(join(folder, PATH)))) {
    shadows.set(name, qemuContent(folder, name));
  }
  let disk = qemuContent(folder);
  for (let step = 0; step < 14; step++) {
    const by = random.pick([changeIn, changeIn, theirs]);
    const name = random.pick([...shadows.keys(), `s${step}`]);
    const what = random.pick(['write', 'write', '-c', '-c', '-a', '-d'] as const);
    if (what === 'write') disk = await writeAtRandom(folder, disk, random);
    else if (what === '-c') {
      const fresh = `s${step}`;
      const isDone = await settled(() => by(folder, '-c', fresh));
      if (isDone) shadows.set(fresh, disk);
      else expect(mayRefuse).toBe(true);
      if (!isDone && by === theirs) qemu(folder, 'qemu-img', ['check', '-q', '-r', 'leaks', PATH]);
    } else if (shadows.has(name)) {
      if (await settled(() => by(folder, what, name))) {
        if (what === '-a') disk = shadows.get(name) as Buffer;
        else shadows.delete(name);
      } else expect(mayRefuse).toBe(true);
    }
    await expectQemuClean(folder);
    expectSame(qemuContent(folder), disk);
  }
  for (const [name, content] of shadows) expectSame(qemuContent(folder, name), content);
}

async function writeAtRandom(folder: string, disk: Buffer, random: Random): Promise<Buffer> {
  if (disk.length === 0) return disk;
  const sectors = disk.length / 512;
  const from = random.below(sectors);
  const length = 512 * (1 + random.below(Math.min(40, sectors - from)));
  const byte = random.pick([0, 1 + random.below(255)]);
  if (random.chance(0.5)) {
    const backing = { folders: [folder] };
    const options = { format: 'qcow2', writable: true, backing } as const;
    await using opened = await openDisk(join(folder, PATH), options);
    await opened.write(from * 512, Buffer.alloc(length, byte));
    await opened.flush();
  } else {
    write(folder, `write -q ${byte === 0 ? '-z' : `-P ${byte}`} ${from * 512} ${length}`);
  }
  return Buffer.from(disk).fill(byte, from * 512, from * 512 + length);
}

/** qemu-img does it. */
async function theirs(folder: string, how: Change, name: string): Promise<void> {
  qemu(folder, 'qemu-img', ['snapshot', how, name, PATH]);
}

/** True when it was done. */
async function settled(work: () => unknown): Promise<boolean> {
  const [result] = await Promise.allSettled([Promise.resolve().then(work)]);
  return result.status === 'fulfilled';
}
