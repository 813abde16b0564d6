// npm run bench:nbd [-- --rounds N --seconds S --only TEXT --busy-poll US,US... --json FILE]
//
// IOPS over NBD on a unix socket, one fio client at a time, sluice against qemu-nbd and nbdkit on
// the same image in the same run: every round measures each server once, so that whatever else the
// machine does falls on all of them. --busy-poll adds a sluice for each budget. Prints medians,
// spread (lowest to highest round) and ratios.

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { accepts } from './accepts.mjs';

const SLUICE = fileURLToPath(new URL('../dist/bin.cjs', import.meta.url));
const IMAGE_MIB = 512;

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '2' },
    only: { type: 'string', default: '' },
    'busy-poll': { type: 'string', default: '' },
    json: { type: 'string' },
  },
});

/** Budgets of the busy poll, beside the default. */
const POLLS = options['busy-poll'].split(',').filter((micros) => micros !== '');

/**
 * @typedef {{ name: string, start(image: string, socket: string): string[] }} Server
 * @typedef {{ name: string, cache: string, fio: string[] }} Workload
 */

/** @type {(name: string, cache: string, more: string[]) => Server} */
const sluice = (name, cache, more) => ({
  name,
  start: (image, socket) => [
    process.execPath,
    SLUICE,
    'serve',
    '-f',
    'raw',
    '-t',
    '-e',
    '0',
    '--cache',
    cache,
    ...more,
    '-k',
    socket,
    image,
  ],
});

/** @type {(cache: string) => Server[]} */
const servers = (cache) => [
  sluice('sluice', cache, []),
  ...POLLS.map((micros) => sluice(`sluice poll ${micros}`, cache, ['--busy-poll', micros])),
  ...['threads', 'io_uring'].map((aio) => ({
    name: `qemu-nbd ${aio}`,
    start: (/** @type {string} */ image, /** @type {string} */ socket) => [
      'qemu-nbd',
      '-t',
      '-e',
      '0',
      '-f',
      'raw',
      `--aio=${aio}`,
      `--cache=${cache}`,
      '-k',
      socket,
      image,
    ],
  })),
  {
    name: 'nbdkit file',
    start: (image, socket) => [
      'nbdkit',
      '-f',
      '-U',
      socket,
      'file',
      image,
      ...(cache === 'none' ? ['cache=none'] : []),
    ],
  },
];

/** @type {(name: string, cache: string, rw: string, depth: number) => Workload} */
const random4k = (name, cache, rw, depth) => ({
  name: `${name}, depth ${depth}`,
  cache,
  fio: [`--rw=${rw}`, '--bs=4k', `--iodepth=${depth}`, '--norandommap'],
});

/** @type {Workload[]} */
const WORKLOADS = [1, 16, 64].flatMap((depth) => [
  random4k('4 KiB random read, page cache', 'writeback', 'randread', depth),
  random4k('4 KiB random write, page cache', 'writeback', 'randwrite', depth),
]);

/** Starts a server and waits for its socket. */
async function serve(/** @type {string[]} */ command, /** @type {string} */ socket) {
  const [program = '', ...rest] = command;
  const child = spawn(program, rest, { stdio: 'ignore' });
  for (let tries = 0; tries < 500; tries++) {
    if (await accepts(socket)) return child;
    await sleep(10);
  }
  throw new Error(`${program} did not open ${socket}`);
}

/** Requests a second of one fio run. */
function fio(
  /** @type {string} */ socket,
  /** @type {string[]} */ args,
  /** @type {number} */ seconds,
) {
  const run = spawnSync(
    'fio',
    [
      '--name=bench',
      '--ioengine=nbd',
      `--uri=nbd+unix:///?socket=${socket}`,
      `--size=${IMAGE_MIB}M`,
      '--time_based',
      `--runtime=${seconds}`,
      '--output-format=json',
      ...args,
    ],
    { encoding: 'utf8' },
  );
  if (run.status !== 0) throw new Error(`fio failed: ${run.stderr}`);
  const [job] = JSON.parse(run.stdout.slice(run.stdout.indexOf('{'))).jobs;
  return job.read.iops + job.write.iops;
}

function median(/** @type {number[]} */ values) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

/** Servers started so far. */
let starts = 0;

/** Measures one workload; every round starts, measures and stops each server. */
async function measure(
  /** @type {Workload} */ workload,
  /** @type {string} */ folder,
  /** @type {number} */ rounds,
  /** @type {number} */ seconds,
) {
  /** @type {Map<string, number[]>} */
  const results = new Map();
  for (let round = 0; round < rounds; round++) {
    for (const [index, server] of servers(workload.cache).entries()) {
      // nbdkit leaves its socket behind.
      const socket = join(folder, `${starts++}.sock`);
      const image = join(folder, `${index}.img`);
      readFileSync(image); // hosts with little memory drop cold files from the page cache
      const child = await serve(server.start(image, socket), socket);
      const iops = fio(socket, workload.fio, seconds);
      results.set(server.name, [...(results.get(server.name) ?? []), iops]);
      child.kill('SIGTERM');
      await once(child, 'exit');
    }
  }
  return results;
}

/** One line for each server, with the ratio of sluice to it. */
function report(/** @type {string} */ name, /** @type {Map<string, number[]>} */ results) {
  const ours = median(results.get('sluice') ?? []);
  console.log(name);
  for (const [server, values] of results) {
    const spread = `${Math.round(Math.min(...values))}-${Math.round(Math.max(...values))}`;
    const ratio =
      server === 'sluice' ? '' : `sluice / ${server} = ${(ours / median(values)).toFixed(2)}`;
    console.log(
      `  ${server.padEnd(18)}${String(Math.round(median(values))).padStart(8)} IOPS  ` +
        `(${spread.padEnd(15)})  ${ratio}`,
    );
  }
}

const folder = mkdtempSync(join(tmpdir(), 'sluice-bench-'));
try {
  const image = Buffer.alloc(IMAGE_MIB << 20, 'sluice');
  writeFileSync(join(folder, '0.img'), image);
  for (let i = 1; i < servers('').length; i++) {
    copyFileSync(join(folder, '0.img'), join(folder, `${i}.img`));
  }
  /** @type {Record<string, Record<string, number[]>>} */
  const all = {};
  for (const workload of WORKLOADS.filter(({ name }) => name.includes(options.only))) {
    const results = await measure(
      workload,
      folder,
      Number(options.rounds),
      Number(options.seconds),
    );
    report(workload.name, results);
    all[workload.name] = Object.fromEntries(results);
  }
  if (options.json !== undefined) writeFileSync(options.json, JSON.stringify(all, undefined, 2));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
