// npm run bench:nbd [-- --rounds N --seconds S --only TEXT --busy-poll US,US... --json FILE]
//
// IOPS over NBD on a unix socket, one fio client at a time, sluice against qemu-nbd and nbdkit on
// the same image in the same run: every round measures each server once, so that whatever else the
// machine does falls on all of them. qcow2, which nbdkit does not serve: with every cluster
// allocated, and a fill of a new image. --busy-poll adds a sluice for each budget. Prints medians,
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
/** Nobody fills it in the time of a round. */
const FILLED_MIB = 65_536;

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
 * @typedef {'raw' | 'qcow2' | 'empty'} Kind what is served; `empty`: a new qcow2 image
 * @typedef {{ name: string, kind: Kind, cache: string, fio: string[] }} Workload
 */

/** @type {(name: string, format: string, cache: string, more: string[]) => Server} */
const sluice = (name, format, cache, more) => ({
  name,
  start: (image, socket) => [
    process.execPath,
    SLUICE,
    'serve',
    '-f',
    format,
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

/** @type {(kind: Kind, cache: string) => Server[]} */
const servers = (kind, cache) => {
  const format = kind === 'raw' ? 'raw' : 'qcow2';
  const polls = POLLS.map((micros) =>
    sluice(`sluice poll ${micros}`, format, cache, ['--busy-poll', micros]),
  );
  const ours = [sluice('sluice', format, cache, []), ...polls];
  return [...ours, ...qemu(format, cache), ...(format === 'raw' ? [nbdkit(cache)] : [])];
};

/** @type {(format: string, cache: string) => Server[]} */
const qemu = (format, cache) =>
  ['threads', 'io_uring'].map((aio) => ({
    name: `qemu-nbd ${aio}`,
    start: (/** @type {string} */ image, /** @type {string} */ socket) => [
      'qemu-nbd',
      '-t',
      '-e',
      '0',
      '-f',
      format,
      `--aio=${aio}`,
      `--cache=${cache}`,
      '-k',
      socket,
      image,
    ],
  }));

/** @type {(cache: string) => Server} */
const nbdkit = (cache) => ({
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
});

/** @type {(name: string, kind: Kind, rw: string, depth: number) => Workload} */
const in4k = (name, kind, rw, depth) => ({
  name: `${name}, depth ${depth}`,
  kind,
  cache: 'writeback',
  fio: [
    `--rw=${rw}`,
    '--bs=4k',
    `--iodepth=${depth}`,
    `--size=${kind === 'empty' ? FILLED_MIB : IMAGE_MIB}M`,
    '--norandommap',
  ],
});

/** @type {Workload[]} */
const WORKLOADS = [
  ...[1, 16, 64].flatMap((depth) => [
    in4k('4 KiB random read, page cache', 'raw', 'randread', depth),
    in4k('4 KiB random write, page cache', 'raw', 'randwrite', depth),
  ]),
  ...[1, 16, 64].flatMap((depth) => [
    in4k('4 KiB random read, qcow2', 'qcow2', 'randread', depth),
    in4k('4 KiB random write, qcow2', 'qcow2', 'randwrite', depth),
  ]),
  in4k('4 KiB sequential fill, qcow2', 'empty', 'write', 64),
  in4k('4 KiB random fill, qcow2', 'empty', 'randwrite', 64),
];

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

function qemuImg(/** @type {string[]} */ args) {
  const { status, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`qemu-img failed: ${stderr}`);
}

/** An image of each kind for every server; all are copies, whose pages are alike. */
function makeImages(/** @type {string} */ folder) {
  const first = { raw: join(folder, 'raw'), qcow2: join(folder, 'qcow2') };
  writeFileSync(first.raw, Buffer.alloc(IMAGE_MIB << 20, 'sluice'));
  qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', first.raw, first.qcow2]);
  for (const kind of /** @type {const} */ (['raw', 'qcow2'])) {
    for (let index = 0; index < servers(kind, '').length; index++) {
      copyFileSync(first[kind], join(folder, `${index}.${kind}`));
    }
  }
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
    for (const [index, server] of servers(workload.kind, workload.cache).entries()) {
      // nbdkit leaves its socket behind.
      const socket = join(folder, `${starts++}.sock`);
      const image = join(folder, `${index}.${workload.kind}`);
      if (workload.kind === 'empty') qemuImg(['create', '-f', 'qcow2', image, `${FILLED_MIB}M`]);
      else readFileSync(image); // hosts with little memory drop cold files from the page cache
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
  makeImages(folder);
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
