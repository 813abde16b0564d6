// npm run bench:vhost-user [-- --rounds N --seconds S --only TEXT --json FILE]
//
// IOPS of a vhost-user-blk device under libblkio's virtio driver, sluice against
// qemu-storage-daemon's export on the same image in the same run: every round measures each server
// once. Beside it what a request costs the server: microseconds of processor, and for sluice the
// system calls that read and write the file, of which merging saves some. Prints medians, the
// spread from the lowest to the highest round, and ratios. Needs gcc, and libblkio as
// `node scripts/guests.mjs` fetches it.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { openDisk, serveVhostUser } from '../dist/node.js';
import { guestFolder, hasGuest } from '../scripts/guests.mjs';
import { processorSeconds } from './processor.mjs';
import { run } from './program.mjs';
import { median } from './statistics.mjs';

const SLUICE = fileURLToPath(new URL('../dist/bin.cjs', import.meta.url));
const SOURCE = fileURLToPath(new URL('c/blkio-load.c', import.meta.url));
const IMAGE_MIB = 512;
const BLOCK_BYTES = 4096;

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '2' },
    only: { type: 'string', default: '' },
    json: { type: 'string' },
  },
});

/**
 * @typedef {'writeback' | 'none'} Cache
 * @typedef {{ name: string, cache: Cache, kind: string, depth: number }} Workload
 */

/** @type {Workload[]} */
const WORKLOADS = /** @type {const} */ (['writeback', 'none']).flatMap((cache) =>
  ['read', 'write', 'seqwrite'].flatMap((kind) =>
    [1, 32].map((depth) => ({ name: `${cache} ${kind} ${depth}`, cache, kind, depth })),
  ),
);

const folder = mkdtempSync(join(tmpdir(), 'sluice-bench-'));
const socket = join(folder, 'socket');
const image = join(folder, 'disk.img');
const load = join(folder, 'load');

/** @type {Record<string, (cache: string) => string[]>} */
const SERVERS = {
  sluice: (cache) => [
    process.execPath,
    SLUICE,
    'vhost-user',
    '-f',
    'raw',
    '--cache',
    cache,
    '-k',
    socket,
    image,
  ],
  'qemu-storage-daemon': (cache) => [
    'qemu-storage-daemon',
    '--blockdev',
    `driver=file,node-name=disk,filename=${image},cache.direct=${cache === 'none' ? 'on' : 'off'}`,
    '--export',
    `type=vhost-user-blk,id=e,addr.type=unix,addr.path=${socket},node-name=disk,writable=on`,
  ],
};

/**
 * One round of one server.
 * @param {string[]} command
 * @param {Workload} workload
 */
async function measure(command, { kind, depth }) {
  rmSync(socket, { force: true });
  const [program = '', ...args] = command;
  const server = spawn(program, args, { stdio: 'ignore' });
  const ended = once(server, 'exit');
  while (!existsSync(socket)) await sleep(10);
  await sleep(200);
  const pid = /** @type {number} */ (server.pid);
  const before = processorSeconds(pid);
  const child = spawn(load, [socket, kind, String(depth), options.seconds, String(BLOCK_BYTES)]);
  let text = '';
  child.stdout.on('data', (bytes) => (text += bytes));
  child.stderr.on('data', (bytes) => process.stderr.write(bytes));
  await once(child, 'close');
  const micros = (processorSeconds(pid) - before) * 1e6;
  server.kill();
  await ended;
  const iops = Number(text);
  if (!(iops > 0)) throw new Error(`${program} served nothing`);
  return { iops, micros: micros / (iops * Number(options.seconds)) };
}

/** Commands for a request, of a device in this process. */
async function commandsOf(/** @type {Workload} */ { cache, kind, depth }) {
  rmSync(socket, { force: true });
  const disk = await openDisk(image, { format: 'raw', cache, writable: true });
  await serveVhostUser(disk, { socket });
  const child = spawn(load, [socket, kind, String(depth), '1', String(BLOCK_BYTES)]);
  await once(child, 'exit');
  const { commands, requests } = disk.stats();
  await disk.close();
  return commands / (requests.read + requests.write);
}

function thousands(/** @type {number[]} */ values) {
  const show = (/** @type {number} */ value) => (value / 1000).toFixed(1);
  return `${show(median(values))} (${show(Math.min(...values))}-${show(Math.max(...values))})`;
}

try {
  if (!hasGuest('blkio')) throw new Error('libblkio is missing; run node scripts/guests.mjs');
  const library = join(guestFolder('blkio'), 'lib/libblkio.so.1');
  run('gcc', ['-O2', '-o', load, SOURCE, library, `-Wl,-rpath,${dirname(library)}`]);
  run('qemu-img', [
    'create',
    '-q',
    '-f',
    'raw',
    '-o',
    'preallocation=full',
    image,
    `${IMAGE_MIB}M`,
  ]);
  console.log('kIOPS of 4 KiB, median (lowest-highest); us: processor time of a request');
  /** @type {unknown[]} */
  const results = [];
  for (const workload of WORKLOADS) {
    if (!workload.name.includes(options.only)) continue;
    /** @type {Record<string, { iops: number[], micros: number[] }>} */
    const measured = {};
    for (let round = 0; round < Number(options.rounds); round++) {
      for (const [name, command] of Object.entries(SERVERS)) {
        const { iops, micros } = await measure(command(workload.cache), workload);
        const row = (measured[name] ??= { iops: [], micros: [] });
        row.iops.push(iops);
        row.micros.push(micros);
      }
    }
    const [ours, theirs] = Object.keys(SERVERS).map((name) => measured[name]);
    if (ours === undefined || theirs === undefined) throw new Error('nothing was measured');
    const ratio = median(ours.iops) / median(theirs.iops);
    const commands = await commandsOf(workload);
    results.push({ ...workload, measured, ratio, commands });
    console.log(
      `${workload.name.padEnd(22)} ${ratio.toFixed(2)}x  sluice ${thousands(ours.iops)}, ` +
        `${median(ours.micros).toFixed(1)} us, ${commands.toFixed(2)} calls a request; ` +
        `qemu-storage-daemon ${thousands(theirs.iops)}, ${median(theirs.micros).toFixed(1)} us`,
    );
  }
  if (options.json !== undefined)
    writeFileSync(options.json, JSON.stringify(results, undefined, 1));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
