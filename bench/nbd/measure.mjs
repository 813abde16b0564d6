// One server, one row, one round: fio on the socket, and what it cost the server.

import { spawn } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { withServer } from '../with-server.mjs';
import { processorSeconds } from '../processor.mjs';
import { run } from '../program.mjs';
import { EMPTY_MIB, IMAGE_MIB } from './workloads.mjs';

/** @typedef {import('./workloads.mjs').Workload} Workload */
/** @typedef {import('./servers.mjs').Server} Server */

/**
 * What one round showed: requests a second, their latency in microseconds, processor time of the
 * server in microseconds a request.
 * @typedef {{
 *   iops: number, p50: number, p99: number, p999: number, processor: number,
 * }} Round
 */

/** The rounds of one server. @typedef {{ name: string, family: string, rounds: Round[] }} Result */

/**
 * Code is compiled, caches are warm, the server has found out what its disk can do: after so many
 * clients, one after the other (what was compiled for one alone is compiled again for the second),
 * each of so many rounds' time, and more of them if that was not enough for so many requests.
 */
const WARM_UP_CLIENTS = { least: 2, most: 4 };
const WARM_UP_ROUNDS = 1.5;
const WARM_UP_REQUESTS = 30_000;

/**
 * The images that all servers share, one after the other. Those that are served from the page cache
 * are written in blocks of 4 KiB and stay there: Linux 6 caches what is read or written at once in
 * folios of up to 2 MiB, in which ext4 takes 25 microseconds for each 4 KiB that is written,
 * whoever writes it. Direct I/O would drop the pages, so it has images of its own.
 */
export class Images {
  /** @readonly */
  #path;
  /** The cached one that is in use. */
  #warm = '';

  /** @param {string} folder */
  constructor(folder) {
    this.#path = (/** @type {string} */ name) => join(folder, name);
    const raw = this.#path('raw');
    writeFileSync(raw, Buffer.alloc(IMAGE_MIB << 20, 'sluice'));
    run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, this.#path('qcow2')]);
    // Nobody shall write back another one's pages.
    run('sync', []);
  }

  /** The image for the next server. */
  prepare(/** @type {Workload} */ { kind, cache }) {
    const image = this.#path(kind);
    if (kind === 'empty') run('qemu-img', ['create', '-f', 'qcow2', image, `${EMPTY_MIB}M`]);
    return kind === 'empty' || cache === 'none' ? image : this.#cached(image);
  }

  /** A copy in the page cache. Some hosts drop a file that nobody uses for a while: it is anew. */
  #cached(/** @type {string} */ image) {
    const copy = `${image}.cached`;
    if (copy === this.#warm) readFileSync(copy);
    else {
      rmSync(copy, { force: true });
      run('dd', [`if=${image}`, `of=${copy}`, 'bs=4k', 'conv=fsync']);
    }
    this.#warm = copy;
    return copy;
  }
}

/**
 * Measures all servers once in each round; each round begins with another one.
 * @param {Workload} workload
 * @param {Server[]} servers
 * @param {{ images: Images, folder: string, rounds: number, seconds: number }} how
 * @returns {Promise<Result[]>}
 */
export async function measure(workload, servers, { images, folder, rounds, seconds }) {
  /** @type {Result[]} */
  const results = servers.map(({ name, family }) => ({ name, family, rounds: [] }));
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < servers.length; turn++) {
      const index = (round + turn) % servers.length;
      const server = servers[index];
      if (server === undefined) continue;
      const image = images.prepare(workload);
      results[index]?.rounds.push(await measureOne(server, image, workload, { folder, seconds }));
    }
  }
  return results;
}

/**
 * @param {Server} server
 * @param {string} image
 * @param {Workload} workload
 * @param {{ folder: string, seconds: number }} how
 */
function measureOne({ command }, image, { fio: args }, { folder, seconds }) {
  const socket = join(folder, 'socket');
  const remote = ['--ioengine=nbd', `--uri=nbd+unix:///?socket=${socket}`];
  return withServer(command(image, socket), socket, (pid) =>
    load([...remote, ...args], seconds, pid),
  );
}

/**
 * @param {string[]} args
 * @param {number} seconds
 * @param {number} pid of the server
 * @returns {Promise<Round>}
 */
async function load(args, seconds, pid) {
  const { least, most } = WARM_UP_CLIENTS;
  for (let clients = 0, requests = 0; clients < most; clients++) {
    if (clients >= least && requests >= WARM_UP_REQUESTS) break;
    const { read, write } = await fio(args, WARM_UP_ROUNDS * seconds);
    requests += read.total_ios + write.total_ios;
  }
  const before = processorSeconds(pid);
  const { read, write } = await fio(args, seconds);
  const processor = processorSeconds(pid) - before;
  const { clat_ns: latency } = write.total_ios > read.total_ios ? write : read;
  return {
    iops: read.iops + write.iops,
    p50: percentile(latency, '50.000000'),
    p99: percentile(latency, '99.000000'),
    p999: percentile(latency, '99.900000'),
    processor: (processor * 1e6) / (read.total_ios + write.total_ios),
  };
}

/**
 * What fio says of one direction.
 * @typedef {{
 *   iops: number, total_ios: number,
 *   clat_ns: { percentile?: Record<string, number> },
 * }} Direction
 */

/** Microseconds; NaN when fio has none. */
function percentile(/** @type {Direction['clat_ns']} */ latency, /** @type {string} */ name) {
  return (latency.percentile?.[name] ?? Number.NaN) / 1000;
}

/**
 * One run of fio, all of whose jobs are counted as one.
 * @param {string[]} args
 * @param {number} seconds
 * @returns {Promise<{ read: Direction, write: Direction }>}
 */
async function fio(args, seconds) {
  const child = spawn('fio', [
    '--name=bench',
    '--time_based',
    `--runtime=${Math.round(seconds * 1000)}ms`,
    '--thread',
    '--group_reporting',
    '--output-format=json',
    ...args,
  ]);
  let text = '';
  let errors = '';
  child.stdout.setEncoding('utf8').on('data', (/** @type {string} */ part) => (text += part));
  child.stderr.setEncoding('utf8').on('data', (/** @type {string} */ part) => (errors += part));
  const status = await new Promise((resolve) => child.once('close', resolve));
  if (status !== 0) throw new Error(`fio failed: ${errors}`);
  return JSON.parse(text.slice(text.indexOf('{'))).jobs[0];
}
