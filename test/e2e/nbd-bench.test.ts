/** The bench of NBD servers: its rows, its tables, its plots, and one row for true. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { expect, it } from 'vitest';

import { nbdFloor } from '../../bench/nbd-servers.mjs';
import { Images, measure } from '../../bench/nbd/measure.mjs';
import { plot } from '../../bench/nbd/plot.mjs';
import {
  groupsOf,
  latencyTable,
  misses,
  type Row,
  throughputTable,
} from '../../bench/nbd/report.mjs';
import { compileFloors, serversOf } from '../../bench/nbd/servers.mjs';
import { workloads } from '../../bench/nbd/workloads.mjs';
import { run } from '../../bench/program.mjs';
import { withServer } from '../../bench/with-server.mjs';
import { describeWithPeers } from '../support/peers.ts';
import { scratchFolder } from '../backend/scratch.ts';

const folder = scratchFolder();

/** Rounds of so many IOPS each. */
function roundsOf(...iops: number[]) {
  return iops.map((count) => ({
    iops: count,
    p50: 1,
    p99: 2,
    p999: 3,
    processor: 4,
  }));
}

const ROW: Row = {
  name: 'raw, page cache: 4 KiB random <read>, depth 1',
  group: 'raw, page cache',
  target: { qemu: 2, nbdkit: 1.2 },
  results: [
    { name: 'sluice', family: 'sluice', rounds: roundsOf(300, 400, 200) },
    { name: 'qemu-nbd threads', family: 'qemu', rounds: roundsOf(100, 100, 100) },
    { name: 'qemu-nbd io_uring', family: 'qemu', rounds: roundsOf(200, 200, 200) },
    { name: 'nbdkit file', family: 'nbdkit', rounds: roundsOf(200, 100, 100) },
    { name: 'nbd-floor', family: 'floor', rounds: roundsOf(400, 400, 400) },
  ],
};

it('compares with the best of each peer, round by round, and says what misses its target', () => {
  const [, , line] = throughputTable([ROW]);
  expect(line).toBe(
    '| 4 KiB random <read>, depth 1 | 300 (200-400) | 1.50 (1.00-2.00), below 2 | io_uring | ' +
      '2.00 (1.50-4.00) | 0.75 (0.50-1.00) |',
  );
  expect(latencyTable([ROW])[2]).toContain(
    '| 1 / 1 / 1 | 2 / 2 / 2 | 3 / 3 / 3 | 4.0 / 4.0 / 4.0 |',
  );
  expect(misses(ROW)).toEqual([`${ROW.name}: 1.50 times qemu, the target is 2`]);
});

it('draws a bar for each peer from 1 to the ratio', () => {
  const svg = plot(ROW.group, [ROW, ROW]);
  expect(svg).toContain('4 KiB random &lt;read&gt;, depth 1</text>');
  expect(svg.match(/>1\.50</g)).toHaveLength(2);
  expect(svg.match(/>2\.00</g)).toHaveLength(2);
});

it('has every combination of the matrix once', () => {
  const all = workloads('all');
  const names = new Set(all.map(({ name }) => name));
  expect(names.size).toBe(all.length);
  for (const image of ['raw', 'qcow2']) {
    for (const cache of ['page cache', 'O_DIRECT']) {
      for (const size of ['4 KiB', '1 MiB']) {
        for (const depth of [1, 16, 64]) {
          expect(names).toContain(`${image}, ${cache}: ${size} sequential write, depth ${depth}`);
        }
      }
    }
  }
  expect(new Set(all.map(({ group }) => group)).size).toBe(5);
  expect([...groupsOf([ROW, ROW])]).toEqual([[ROW.group, [ROW, ROW]]]);
});

describeWithPeers(['fio', 'qemu-nbd', 'nbdkit', 'qemu-img', 'gcc'], 'a row', () => {
  it('is measured', async () => {
    const [workload] = workloads('main');
    if (workload === undefined) throw new Error('there are no rows');
    const servers = serversOf(workload, ['--busy-poll 0'], compileFloors(folder));
    const images = new Images(folder);
    const results = await measure(workload, servers, { images, folder, rounds: 1, seconds: 0.1 });
    expect(results.map(({ name }) => name)).toEqual([
      'sluice',
      'sluice --busy-poll 0',
      'qemu-nbd threads',
      'qemu-nbd io_uring',
      'nbdkit file',
      'nbd-floor',
    ]);
    for (const { rounds } of results) {
      expect(rounds).toHaveLength(1);
      expect(rounds[0]?.iops).toBeGreaterThan(0);
      expect(rounds[0]?.p99).toBeGreaterThanOrEqual(rounds[0]?.p50 ?? Infinity);
      expect(rounds[0]?.processor).toBeGreaterThan(0);
    }
  });

  it('of several connections that flush has a floor that shares syncs', async () => {
    const workload = workloads('main').find(
      ({ flushes, connections }) => flushes && connections > 1,
    );
    if (workload === undefined) throw new Error('there is no such row');
    const servers = serversOf(workload, [], compileFloors(folder));
    const floors = servers.filter(({ family }) => family === 'floor');
    const images = new Images(folder);
    const results = await measure(workload, floors, { images, folder, rounds: 1, seconds: 0.1 });
    expect(results.map(({ name }) => name)).toEqual(['nbd-floor', 'nbd-floor-loop']);
    for (const { rounds } of results) expect(rounds[0]?.iops).toBeGreaterThan(0);
  });

  it('that bypasses the page cache has a floor that does so', async () => {
    const workload = workloads('main').find(({ cache }) => cache === 'none');
    if (workload === undefined) throw new Error('there is no such row');
    const servers = serversOf(workload, [], compileFloors(folder));
    const floors = servers.filter(({ family }) => family === 'floor');
    const images = new Images(folder);
    const results = await measure(workload, floors, { images, folder, rounds: 1, seconds: 0.1 });
    expect(results).toMatchObject([{ name: 'nbd-floor-direct', family: 'floor' }]);
    expect(results[0]?.rounds[0]?.iops).toBeGreaterThan(0);
  });
});

describeWithPeers(['fio', 'gcc'], 'the floor with O_DIRECT', () => {
  // A floor that lost or mixed up bytes would be no floor.
  it.each([
    ['alone', ['--rw=randwrite', '--bs=4k', '--iodepth=1', '--fsync=64']],
    ['at once', ['--rw=randwrite', '--bs=4k', '--iodepth=64']],
    ['one after the other', ['--rw=write', '--bs=4k', '--iodepth=64']],
    ['of 1 MiB', ['--rw=randwrite', '--bs=1M', '--iodepth=4']],
  ])('has what was written to it %s', async (_, args) => {
    const program = compileFloors(folder).get('nbd-floor-direct');
    if (program === undefined) throw new Error('it was not compiled');
    const image = join(folder, 'image');
    writeFileSync(image, Buffer.alloc(4 << 20));
    const socket = join(folder, 'floor.socket');
    const asked = ['--name=verify', '--ioengine=nbd', `--uri=nbd+unix:///?socket=${socket}`];
    const verified = ['--size=4M', '--verify=crc32c', '--verify_state_save=0'];
    await withServer(nbdFloor(program)(image, socket), socket, () =>
      Promise.resolve(run('fio', [...asked, ...verified, ...args])),
    );
  });
});
