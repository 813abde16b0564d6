/**
 * Real clients of served qcow2 images, and what may go wrong at the command line.
 *
 * SLUICE_E2E_KINDS=n copies images of n kinds (default 8; 1000: all of them);
 * SLUICE_E2E_SEED=n chooses the same ones again.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, it, type TestContext } from 'vitest';

import type { CacheModeName } from '../../src/cache-mode.ts';
import { Folder, run, sluice, succeed } from '../cli/sluice.ts';
import { Random } from '../engine/random.ts';
import { IMAGE, type Kind, KINDS, make } from '../qcow2/kinds.ts';
import { describeWithPeers } from '../support/peers.ts';
import { obstacle } from './image.ts';
import { checkImage, createImage, qemuIo, ServedImage, SOUND } from './qcow2-server.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
/** Larger disks are not copied. */
const COPIED_BYTES_MAX = 64 * MIB;
const SEED = Number(process.env['SLUICE_E2E_SEED'] ?? Date.now() % 1_000_000);
const COUNT = Number(process.env['SLUICE_E2E_KINDS'] ?? 8);
const PEERS = ['qemu-img', 'qemu-io', 'nbdcopy', 'nbdinfo', 'fio'] as const;

/** A served image, and how to look at it afterwards. */
class Stage implements AsyncDisposable {
  readonly path: string;
  readonly folder: Folder;

  private constructor(folder: Folder) {
    this.folder = folder;
    this.path = folder.file('made');
  }

  static async make(kind: Kind): Promise<Stage> {
    const stage = new Stage(await Folder.make());
    make(kind, stage.path);
    return stage;
  }

  get image(): string {
    return join(this.path, IMAGE);
  }

  /** Data files are named as they are found from the folder. */
  qemuImg(...args: string[]): Promise<string> {
    return succeed('qemu-img', args, { cwd: this.path });
  }

  serve(options: readonly string[] = [], cache?: CacheModeName): Promise<ServedImage> {
    const mode = cache === undefined ? {} : { cache };
    return ServedImage.serve(this.folder, this.image, { ...mode, options: ['-t', ...options] });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.folder[Symbol.asyncDispose]();
  }
}

/** Ends a server with SIGTERM; the image must be good, and as the file says. */
async function endsGood(stage: Stage, disk: ServedImage, raw?: string): Promise<void> {
  process.kill(await disk.pid(), 'SIGTERM');
  expect(await disk.end()).toEqual({ code: 0, errors: [] });
  expect(await checkImage(stage.image)).toEqual(SOUND);
  if (raw !== undefined) {
    await stage.qemuImg('compare', '-q', '-f', 'qcow2', '-F', 'raw', stage.image, raw);
  }
}

describeWithPeers(PEERS, 'a served qcow2 image', () => {
  beforeAll(() => {
    process.stdout.write(`clients of qcow2: SLUICE_E2E_SEED=${SEED}\n`);
  });

  it.concurrent.for(chosenKinds().map((kind) => [kind.name, kind] as const))(
    'is copied out by nbdcopy as qemu-img converts it, and in again: %s',
    async ([, kind]) => {
      await using stage = await Stage.make(kind);
      const [original, copy] = [stage.folder.file('original'), stage.folder.file('copy')];
      await stage.qemuImg('convert', '-f', 'qcow2', '-O', 'raw', stage.image, original);
      await using disk = await stage.serve();
      await succeed('nbdcopy', [disk.server.uri, copy]);
      await stage.qemuImg('compare', '-q', '-f', 'raw', '-F', 'raw', original, copy);
      // The same contents in other places: from the end to the start, with holes.
      const bytes = await readFile(original);
      const half = Math.floor(bytes.length / 2 / 512) * 512;
      await writeFile(copy, Buffer.concat([bytes.subarray(half), bytes.subarray(0, half)]));
      await succeed('nbdcopy', ['--flush', copy, disk.server.uri]);
      await endsGood(stage, disk, copy);
    },
  );
});

function chosenKinds(): readonly Kind[] {
  const copied = KINDS.filter(({ sizeBytes }) => sizeBytes > 0 && sizeBytes <= COPIED_BYTES_MAX);
  return new Random(SEED).shuffle(copied).slice(0, COUNT);
}

/** Patterns in whole clusters, across their borders, and in sectors. */
const PATTERNS = [
  'write -P 0x11 0 256k',
  'write -P 0x22 100k 512',
  'write -P 0x33 131071 777',
  'aio_write -P 0x44 300k 100k',
  'aio_write -P 0x55 500k 100k',
  'aio_flush',
  'write -f -P 0x66 700k 3k',
  'write -z 20k 40k',
  'write -z -u 320k 30k',
  'discard 520k 64k',
  'read -P 0x22 100k 512',
  'read -P 0x33 131071 777',
  'read -P 0x66 700k 3k',
  'read -P 0 20k 40k',
  'read -P 0 320k 30k',
  'read -P 0x11 60k 40k',
];

/** One of a sort. */
const CHOSEN = [
  '64k clusters',
  'extended L2, backing, compressed',
  'snapshots, compressed',
  'data file',
  'v2, backing',
  'a chain of 3',
];

const MODES = ['writeback', 'none', 'writethrough'] as const;

describeWithPeers(PEERS, 'clients of a served qcow2 image', () => {
  it.concurrent.for(CHOSEN.map((name, index) => [name, MODES[index % 3]!] as const))(
    'find what they wrote: %s, --cache %s',
    async ([name, cache], context) => {
      await using stage = await Stage.make(KINDS.find((kind) => kind.name === name)!);
      skipWithout(cache, stage.folder, context);
      await using disk = await stage.serve([], cache);
      const { uri } = disk.server;
      await qemuIo(uri, PATTERNS, 'raw');
      await fioVerifies(stage.folder, uri);
      const extents = await mapOf(uri);
      const raw = stage.folder.file('raw');
      await succeed('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri, raw]);
      await endsGood(stage, disk, raw);
      const mapped = JSON.parse(await stage.qemuImg('map', '--output=json', IMAGE)) as Mapped[];
      const theirs = mapped.map(({ start, length, data }): Run => [start, length, !data]);
      expect(zeroesOf(extents)).toEqual(runsOf(theirs));
    },
  );
});

function skipWithout(cache: CacheModeName, folder: Folder, context: TestContext): void {
  const reason = obstacle(cache, folder);
  if (reason !== undefined) context.skip(reason);
}

/** Two jobs in halves of the disk, requests of all sizes; fails when one reads anything else. */
async function fioVerifies(folder: Folder, uri: string): Promise<void> {
  const load = ['--ioengine=nbd', `--uri=${uri}`, '--rw=randrw', '--iodepth=8', '--fsync=16'];
  const place = ['--size=256k', '--offset_increment=256k', '--numjobs=2', '--bsrange=512-32k'];
  const verify = ['--verify=crc32c', '--verify_fatal=1', '--do_verify=1', '--thread'];
  const args = ['--name=job', ...load, ...place, ...verify, '--output-format=json'];
  const output = await succeed('fio', args, { cwd: folder.path });
  const { jobs } = JSON.parse(output.slice(output.indexOf('{'))) as { jobs: { error: number }[] };
  expect(jobs.map(({ error }) => error)).toEqual([0, 0]);
}

interface Mapped {
  readonly start: number;
  readonly length: number;
  /** Otherwise it is known to be zero. */
  readonly data: boolean;
}

interface Extent {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

/** `nbdinfo --map`. */
async function mapOf(uri: string): Promise<Extent[]> {
  return JSON.parse(await succeed('nbdinfo', ['--map', '--json', uri])) as Extent[];
}

/** NBD says in the second bit that a range reads as zeroes. */
function zeroesOf(extents: readonly Extent[]): Run[] {
  return runsOf(extents.map(({ offset, length, type }) => [offset, length, (type & 2) !== 0]));
}

type Run = readonly [start: number, length: number, zero: boolean];

/** Neighbours that say the same become one. */
function runsOf(runs: readonly Run[]): Run[] {
  const joined: Run[] = [];
  for (const run of runs) {
    const last = joined.at(-1);
    if (last === undefined || last[2] !== run[2]) joined.push(run);
    else joined[joined.length - 1] = [last[0], last[1] + run[1], last[2]];
  }
  return joined;
}

/** The first incompatible feature bits: dirty and corrupt. */
const FEATURES_OFFSET = 79;
const DIRTY = 1;
const CORRUPT = 2;

describeWithPeers(PEERS, 'sluice serve -f qcow2', () => {
  it('refuses a backing file elsewhere until its folder is allowed', async () => {
    await using folder = await Folder.make();
    await using elsewhere = await Folder.make();
    await createImage(elsewhere, 'under', 'cluster_size=64k', MIB);
    await qemuIo(elsewhere.file('under'), ['write -q -P 7 0 64k']);
    const backing = [elsewhere.file('under'), 'qcow2'] as const;
    const image = await createImage(folder, 'disk', 'cluster_size=64k', MIB, backing);
    const serve = ['serve', '-f', 'qcow2', '-k', folder.file('a.sock')];
    const refused = await sluice([...serve, image]);
    expect(refused).toMatchObject({ code: 1, stdout: '' });
    const reason =
      /^sluice: cannot open the backing .* no folder that is allowed \(--allow FOLDER\)/;
    expect(refused.stderr).toMatch(reason);
    expect(refused.stderr).toMatch(/ \(ERR_SLUICE_FILE_REFUSED\)\n$/);
    const options = ['--allow', elsewhere.path];
    await using disk = await ServedImage.serve(folder, image, { options });
    await qemuIo(disk.server.uri, ['read -P 7 0 64k', 'write -P 8 512 512'], 'raw');
    expect(await disk.end()).toEqual({ code: 0, errors: [] });
    await qemuIo(elsewhere.file('under'), ['read -P 7 0 64k']);
    await qemuIo(image, ['read -P 8 512 512', 'read -P 7 1k 63k']);
  });

  it.for([
    ['dirty', DIRTY],
    ['marked corrupt', CORRUPT],
  ] as const)('-r serves an image that is %s, and leaves it so', async ([, bit]) => {
    await using folder = await Folder.make();
    const { image, bytes } = await flagged(folder, bit);
    await using disk = await ServedImage.serve(folder, image, { options: ['-r'] });
    await succeed('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 5 0 64k', disk.server.uri]);
    expect(await disk.end()).toEqual({ code: 0, errors: [] });
    expect((await readFile(image)).equals(bytes)).toBe(true);
  });

  it('repairs a dirty image before it is written to', async () => {
    await using folder = await Folder.make();
    const image = await createImage(folder, 'disk', 'lazy_refcounts=on', MIB);
    // Its writer dies before it has written refcounts.
    const commands = ['-c', 'write -P 5 0 64k', '-c', 'flush', '-c', 'abort'];
    expect(await run('qemu-io', ['-f', 'qcow2', ...commands, image])).toMatchObject({ code: null });
    expect((await readFile(image)).readUInt8(FEATURES_OFFSET)).toBe(DIRTY);
    expect(await checkImage(image)).not.toEqual(SOUND);
    await using disk = await ServedImage.serve(folder, image);
    await qemuIo(disk.server.uri, ['write -P 6 512k 64k'], 'raw');
    const { code, errors } = await disk.end();
    expect([code, errors]).toEqual([0, [expect.stringMatching(/not closed; it was checked/)]]);
    expect((await readFile(image)).readUInt8(FEATURES_OFFSET)).toBe(0);
    expect(await checkImage(image)).toEqual(SOUND);
    await qemuIo(image, ['read -P 5 0 64k', 'read -P 6 512k 64k']);
  });

  it('refuses to write to an image that is marked corrupt', async () => {
    await using folder = await Folder.make();
    const { image, bytes } = await flagged(folder, CORRUPT);
    const args = ['serve', '-f', 'qcow2', '-k', folder.file('a.sock'), image];
    const { code, stdout, stderr } = await sluice(args);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^sluice: cannot open .* marked corrupt.*\(ERR_SLUICE_CORRUPT\)\n$/);
    expect((await readFile(image)).equals(bytes)).toBe(true);
  });

  it('serves 512-byte clusters with O_DIRECT, in a file of any length', async (context) => {
    await using folder = await Folder.make();
    skipWithout('none', folder, context);
    const backing = folder.file('under');
    await writeFile(backing, Buffer.alloc(100_001, 'u'));
    const image = await createImage(folder, 'disk', 'cluster_size=512', MIB, ['under', 'raw']);
    await qemuIo(image, ['write -q -P 1 3k 512', 'write -q -P 2 99k 512']);
    const expected = folder.file('expected');
    await succeed('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', image, expected]);
    await using disk = await ServedImage.serve(folder, image, { cache: 'none' });
    const commands = ['write -P 3 100000 1', 'write -P 4 200k 1537', 'write -P 5 98k 700', 'flush'];
    await qemuIo(disk.server.uri, commands, 'raw');
    await qemuIo(expected, commands, 'raw');
    expect(await disk.end()).toEqual({ code: 0, errors: [] });
    expect(await checkImage(image)).toEqual(SOUND);
    const { code, stderr } = await run('qemu-img', ['compare', '-F', 'raw', image, expected]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  });
});

/** An image with a pattern and an incompatible feature bit. */
async function flagged(folder: Folder, bit: number): Promise<{ image: string; bytes: Buffer }> {
  const image = await createImage(folder, 'disk', 'lazy_refcounts=on', MIB);
  await qemuIo(image, ['write -q -P 5 0 64k']);
  const bytes = await readFile(image);
  bytes.writeUInt8(bytes.readUInt8(FEATURES_OFFSET) | bit, FEATURES_OFFSET);
  await writeFile(image, bytes);
  return { image, bytes };
}
