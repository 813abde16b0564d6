// Measures one row of bench:flush: every round runs each server, so that whatever else the machine
// does falls on all of them.

import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { withFlushServer } from './servers.mjs';
import { IMAGE_BYTES } from './workloads.mjs';

const CLIENT = fileURLToPath(new URL('client.py', import.meta.url));
/** Debian's libnbd belongs to Debian's Python. */
const ENVIRONMENT = { ...process.env, PATH: `/usr/bin:${process.env['PATH'] ?? ''}` };

/**
 * One run of client.py.
 * @typedef {{
 *   began: number, ended: number, cpuSeconds: number, wrong: number, writes: number,
 *   flushes: number,
 * }} Report
 */

/**
 * What a server did, round by round; syncs are NaN where nobody can see them, milliseconds where
 * there was no run of its own.
 * @typedef {{
 *   name: string, flushes: number, syncs: number[], milliseconds: number[],
 *   clientShare: number[],
 * }} Result
 */

/**
 * Runs client.py, whose blocks must all read back right.
 * @param {string} socket
 * @param {import('./workloads.mjs').Load} load
 * @param {number} seed
 */
async function runClient(socket, load, seed) {
  const uri = `nbd+unix:///?socket=${socket}`;
  const args = [CLIENT, uri, JSON.stringify({ ...load, seed })];
  const { stdout } = await promisify(execFile)('python3', args, { env: ENVIRONMENT });
  const report = /** @type {Report} */ (JSON.parse(stdout));
  if (report.wrong > 0) throw new Error(`${report.wrong} blocks do not read back`);
  return report;
}

/**
 * Syncs are counted under strace, and time is taken in a second run without it, unless the disk is
 * made slow: strace does that.
 * @param {import('./servers.mjs').Server} server
 * @param {import('./workloads.mjs').Workload} workload
 * @param {{ folder: string, index: number, round: number }} place
 */
async function measureOnce(server, workload, { folder, index, round }) {
  const image = imageOf(folder, index);
  const socket = join(folder, 'bench.sock');
  const { load, delayMicros } = workload;
  const client = () => runClient(socket, load, round);
  const tracing = { log: join(folder, 'strace.log'), delayMicros };
  const run = { server, image, socket };
  const traced = server.traceable ? await withFlushServer({ ...run, tracing }, client) : undefined;
  const bare = delayMicros > 0 ? traced : await withFlushServer(run, client);
  if (bare === undefined) return undefined;
  const inside = traced?.syncs().filter((at) => isDuring(at, traced.value)).length;
  const { began, ended, cpuSeconds, flushes } = bare.value;
  return {
    flushes,
    syncs: inside ?? Number.NaN,
    milliseconds: (ended - began) * 1000,
    clientShare: cpuSeconds / (ended - began),
  };
}

function isDuring(/** @type {number} */ at, /** @type {Report} */ { began, ended }) {
  return at >= began && at <= ended;
}

/** The server's own copy of the image. */
function imageOf(/** @type {string} */ folder, /** @type {number} */ index) {
  const original = join(folder, 'original.img');
  if (!existsSync(original)) writeFileSync(original, Buffer.alloc(IMAGE_BYTES, 'sluice'));
  const image = join(folder, `${index}.img`);
  if (!existsSync(image)) copyFileSync(original, image);
  return image;
}

/**
 * Measures a row. A server that cannot run it is not in the answer.
 * @param {import('./workloads.mjs').Workload} workload
 * @param {import('./servers.mjs').Server[]} servers
 * @param {{ folder: string, rounds: number }} options
 */
export async function measure(workload, servers, { folder, rounds }) {
  /** @type {Map<string, Result>} */
  const results = new Map();
  for (let round = 0; round < rounds; round++) {
    for (const [index, server] of servers.entries()) {
      const once = await measureOnce(server, workload, { folder, index, round });
      if (once === undefined) continue;
      const { name } = server;
      const empty = { name, flushes: once.flushes, syncs: [], milliseconds: [], clientShare: [] };
      const result = results.get(name) ?? empty;
      results.set(name, result);
      result.syncs.push(once.syncs);
      result.milliseconds.push(once.milliseconds);
      result.clientShare.push(once.clientShare);
    }
  }
  return [...results.values()];
}
