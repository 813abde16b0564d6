/**
 * Numbers of a served qcow2 image, printed for the documents: how many syncs small flushed writes
 * cost here and with qemu-nbd, and how much memory a large disk takes.
 */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setTimeout } from 'node:timers/promises';
import { afterAll, expect, it } from 'vitest';

import { Folder, Running, serve } from '../cli/sluice.ts';
import { describeWithPeers } from '../support/peers.ts';
import { readCalls, underStrace } from '../support/strace.ts';
import { nbdsh } from './image.ts';
import { checkImage, createImage, qemuIo, ServedImage, SOUND } from './qcow2-server.ts';

const MIB = 2 ** 20;
const TIB = 2 ** 40;
const WRITES = 50;
const SIZE_BYTES = 64 * MIB;
const EXTRA_MIB_MAX = 64;
/** Clusters are of 64 KiB: each write goes to a new one. */
const WRITER = `
for cluster in range(${WRITES}):
    h.pwrite(b'w' * 4096, cluster << 16)
    h.flush()
`;

/** An image, and the files that are synced. */
const KINDS = [
  ['an empty image', 'cluster_size=64k', 'alone'],
  ['preallocation=metadata', 'cluster_size=64k,preallocation=metadata', 'alone'],
  ['a backing file', 'cluster_size=64k', 'backed'],
  ['extended L2 entries', 'cluster_size=64k,extended_l2=on', 'alone'],
  ['a data file', 'cluster_size=64k,data_file=DATA', 'data file'],
] as const;

type Under = (typeof KINDS)[number][2];

const lines: string[] = [];

describeWithPeers(
  ['strace', 'nbdsh', 'qemu-img', 'qemu-io', 'qemu-nbd'],
  'what a qcow2 image costs',
  () => {
    afterAll(() => {
      process.stdout.write(lines.map((line) => `numbers: ${line}\n`).join(''));
    });

    it.for(KINDS)(
      `${WRITES} flushed writes to new clusters take no more syncs than with qemu-nbd: %s`,
      async ([title, options, under]) => {
        const ours = await syncsOf(options, under, ourSyncs);
        const theirs = await syncsOf(options, under, theirSyncs);
        lines.push(`${title}: ${ours} fdatasync, qemu-nbd ${theirs}`);
        expect(ours).toBeLessThanOrEqual(theirs);
      },
    );

    it(`a disk of 1 TiB takes at most ${EXTRA_MIB_MAX} MiB more than an idle raw one`, async () => {
      await using folder = await Folder.make();
      const idle = await idleMib(folder);
      const image = await createImage(folder, 'disk', 'cluster_size=64k', TIB);
      await using disk = await ServedImage.serve(folder, image, { poolThreads: 4 });
      const status = `/proc/${await disk.pid()}/status`;
      const busy = Number(
        await disk.client(`${ALL_OVER}\nprint(open('${status}').read()
          .split('VmRSS:')[1].split()[0])`),
      );
      const extra = Math.round(busy / 1024 - idle);
      lines.push(
        `1 TiB, random reads and writes: ${extra} MiB beyond the ${idle} of an idle server`,
      );
      expect(await disk.end()).toEqual({ code: 0, errors: [] });
      expect(await checkImage(image)).toEqual(SOUND);
      expect(extra).toBeLessThanOrEqual(EXTRA_MIB_MAX);
    });
  },
);

/** 16 requests in flight, 4 to 64 KiB each, a third of them writes; now and then a flush. */
const ALL_OVER = `
import random
random.seed(1)
pending = 0
def done(error):
    global pending
    assert error.value == 0
    pending -= 1
    return 1
for turn in range(6000):
    at, length = random.randrange(2 ** 40 >> 16) << 16, random.randint(1, 16) * 4096
    if turn % 100 == 99: h.aio_flush(done)
    elif turn % 3 == 0:
        h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b'w' * length)), at, done)
    else: h.aio_pread(nbd.Buffer(length), at, done)
    pending += 1
    while pending >= 16: h.poll(-1)
while pending: h.poll(-1)`;

async function idleMib(folder: Folder): Promise<number> {
  const raw = await folder.image('raw', MIB);
  await using server = await serve(['-t', '-f', 'raw', '-k', folder.file('raw.sock'), raw]);
  const status = await readFile(`/proc/${server.child.pid}/status`, 'utf8');
  return Math.round(Number(/VmRSS:\s*(\d+)/.exec(status)?.[1]) / 1024);
}

/** Serves an image under strace, lets the writer write; answers the syncs of one file of it. */
type Syncs = (folder: Folder, image: string, file: string) => Promise<number>;

async function syncsOf(options: string, under: Under, syncs: Syncs): Promise<number> {
  const files = under === 'data file' ? ['disk', 'DATA'] : ['disk'];
  let total = 0;
  for (const file of files) {
    await using folder = await Folder.make();
    const backed = under === 'backed';
    if (backed) {
      const letter = await folder.image('under', SIZE_BYTES);
      await qemuIo(letter, ['write -q -P 117 0 16M'], 'raw');
    }
    const backing = backed ? (['under', 'raw'] as const) : undefined;
    const image = await createImage(folder, 'disk', options, SIZE_BYTES, backing);
    total += await syncs(folder, image, folder.file(file));
    expect(await checkImage(image)).toEqual(SOUND);
  }
  return total;
}

const ourSyncs: Syncs = async (folder, image, traced) => {
  await using disk = await ServedImage.serve(folder, image, { traced });
  await nbdsh(disk.server.uri, WRITER);
  expect(await disk.end()).toEqual({ code: 0, errors: [] });
  return disk.calls().filter(({ name }) => name === 'fdatasync').length;
};

const theirSyncs: Syncs = async (folder, image, path) => {
  const [program = '', ...strace] = underStrace(
    { path, calls: ['fdatasync'] },
    folder.file('calls'),
  );
  const socket = folder.file('qemu.sock');
  const command = ['qemu-nbd', '-f', 'qcow2', '--cache=writeback', '-k', socket, image];
  await using server = new Running(program, [...strace, ...command], { cwd: folder.path });
  for (let turn = 0; turn < 500 && !existsSync(socket); turn++) await setTimeout(20);
  await nbdsh(`nbd+unix:///?socket=${socket}`, WRITER);
  expect(await server.outcome).toMatchObject({ code: 0 });
  return readCalls(folder.path, 'calls').length;
};
