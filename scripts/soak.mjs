// npm run soak -- [--minutes M] [--format raw|qcow2] [--seed N] [--json FILE] [-- ARGS of serve]
//
// Serves an image to clients that write and read at random and look at every byte, are killed and
// come again, beside clients that read slowly, stop half way, talk nonsense or come and go. At the
// end the server is told to stop, and everything that was ever acknowledged must be there. Watches
// the server's memory and descriptors. Exit code 1 for anything that is not as it must be. Needs
// python3-libnbd and qemu-utils.

import { spawn, spawnSync } from 'node:child_process';
import { once, setMaxListeners } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { accepts } from '../bench/accepts.mjs';
import { hasPeer } from './peers.mjs';
import { add, memoryOf, sampleOf } from './soak/report.mjs';
import { RUDE } from './soak/rude-clients.mjs';

const SLUICE = fileURLToPath(new URL('../dist/bin.cjs', import.meta.url));
const WORKER = fileURLToPath(new URL('soak/worker.py', import.meta.url));
const BLOCK_BYTES = 4096;
const WORKERS = 4;
/** Each worker's successor has another region: what a killed client sent may still be executed. */
const REGIONS = 2 * WORKERS;
const REGION_BLOCKS = 8192;
const MIB = 1 << 20;
const STATUS_MS = 10_000;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    minutes: { type: 'string', default: '60' },
    format: { type: 'string', default: 'qcow2' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    json: { type: 'string' },
  },
});

for (const program of /** @type {const} */ (['nbdsh', 'qemu-img'])) {
  if (!hasPeer(program)) throw new Error(`${program} is not installed`);
}

const { format } = options;
const seed = Number(options.seed);
let state = seed;
/** mulberry32: the same clients for the same seed, as far as races allow. */
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
}

const folder = mkdtempSync(join(tmpdir(), 'sluice-soak-'));
const image = join(folder, 'image');
const knowledge = join(folder, 'state');
const socket = join(folder, 'socket');
/** @type {Record<string, number | string[]>} */
const counts = { faults: [], kills: 0 };
/** @type {import('./soak/report.mjs').Sample[]} */
const samples = [];

/** @param {string} text */
function fault(text) {
  add(counts, { faults: [text] });
}

/** Debian's libnbd belongs to Debian's Python. */
const env = { ...process.env, PATH: `/usr/bin:${process.env['PATH'] ?? ''}` };

async function startServer() {
  const args = ['serve', '-t', '-f', format, '-k', socket, ...positionals, image];
  const server = spawn(process.execPath, [SLUICE, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  // However this ends.
  process.once('exit', () => server.kill('SIGKILL'));
  const said = { text: '' };
  server.stderr.setEncoding('utf8').on('data', (text) => (said.text += text));
  while (!(await accepts(socket))) {
    if (server.exitCode !== null) throw new Error(`the server did not start: ${said.text}`);
    await sleep(20);
  }
  return server;
}

/** Stops the server; it must say that everything went well. */
async function stopServer(/** @type {import('node:child_process').ChildProcess} */ server) {
  server.kill('SIGTERM');
  const [code] = await once(server, 'exit');
  if (code !== 0) fault(`the server ended with ${code}`);
}

/**
 * Starts a worker on a region; `counted` has its last report when it has ended.
 * @param {'load' | 'check'} mode
 * @param {number} region
 */
function startWorker(mode, region) {
  const uri = `nbd+unix:///?socket=${socket}`;
  const numbers = [region * REGION_BLOCKS, REGION_BLOCKS, Math.floor(random() * 2 ** 31)];
  const args = [WORKER, mode, uri, knowledge, ...numbers.map(String)];
  const child = spawn('python3', args, { env });
  let text = '';
  let complaint = '';
  child.stdout.setEncoding('utf8').on('data', (part) => (text += part));
  child.stderr.setEncoding('utf8').on('data', (part) => (complaint += part));
  const ended = once(child, 'close').then(([code]) => {
    const lines = text.split('\n').filter((line) => line.startsWith('{') && line.endsWith('}'));
    const last = lines.at(-1);
    if (last !== undefined) add(counts, JSON.parse(last));
    if (code !== 0 && !child.killed) fault(`a client ended with ${code}: ${complaint}`);
  });
  return { child, ended };
}

/** One worker after the other on two regions; some are killed, some end. */
async function work(/** @type {number} */ index, /** @type {AbortSignal} */ signal) {
  for (let life = 0; !signal.aborted; life++) {
    const worker = startWorker('load', 2 * index + (life % 2));
    const wait = new AbortController();
    const over = () => wait.abort();
    signal.addEventListener('abort', over, { once: true });
    void worker.ended.then(over);
    await sleep(1500 + random() * 5000, undefined, { signal: wait.signal }).catch(() => undefined);
    signal.removeEventListener('abort', over);
    if (signal.aborted || random() < 0.3) worker.child.stdin.end();
    else if (worker.child.kill('SIGKILL')) add(counts, { kills: 1 });
    await worker.ended;
  }
}

/** One rude client after the other. */
async function annoy(/** @type {AbortSignal} */ signal) {
  const names = Object.keys(RUDE);
  while (!signal.aborted) {
    const name = names[Math.floor(random() * names.length)] ?? '';
    await RUDE[name]?.(socket, random, signal);
    add(counts, { [name]: 1 });
  }
}

/** Looks at the server once a second. */
async function watch(/** @type {number} */ pid, /** @type {AbortSignal} */ signal) {
  for (let second = 0; !signal.aborted; second++) {
    samples.push(sampleOf(pid));
    if (process.stderr.isTTY && (second * 1000) % STATUS_MS === 0) {
      console.error(`${second} s: ${JSON.stringify({ ...counts, ...samples.at(-1) })}`);
    }
    await sleep(1000, undefined, { signal }).catch(() => undefined);
  }
}

async function soak() {
  const server = await startServer();
  const stop = new AbortController();
  const { signal } = stop;
  setMaxListeners(0, signal);
  const timer = setTimeout(() => stop.abort(), Number(options.minutes) * 60_000);
  process.once('SIGINT', () => stop.abort());
  void once(server, 'exit').then(() => signal.aborted || fault('the server ended by itself'));
  await Promise.all([
    ...Array.from({ length: WORKERS }, (_, index) => work(index, signal)),
    ...Array.from({ length: 3 }, () => annoy(signal)),
    watch(server.pid ?? 0, signal),
  ]);
  clearTimeout(timer);
  await stopServer(server);
}

/** Everything that was acknowledged is there, in a server that has just begun. */
async function check() {
  const server = await startServer();
  for (let region = 0; region < REGIONS; region++) await startWorker('check', region).ended;
  await stopServer(server);
  if (format !== 'qcow2') return;
  const { status, stdout } = spawnSync('qemu-img', ['check', image], { encoding: 'utf8' });
  if (status !== 0) fault(`qemu-img check: ${stdout}`);
}

try {
  const bytes = REGIONS * REGION_BLOCKS * BLOCK_BYTES;
  spawnSync('qemu-img', ['create', '-q', '-f', format, image, `${bytes / MIB}M`]);
  writeFileSync(knowledge, new Uint8Array(REGIONS * REGION_BLOCKS * 8));
  const startedAtMs = Date.now();
  await soak();
  const seconds = Math.round((Date.now() - startedAtMs) / 1000);
  await check();
  const memory = memoryOf(samples);
  if (!memory.flat) fault('the memory of the server grew');
  const report = JSON.stringify({ format, seed, seconds, ...counts, ...memory }, undefined, 2);
  console.log(report);
  if (options.json !== undefined) writeFileSync(options.json, `${report}\n`);
  if (Array.isArray(counts['faults']) && counts['faults'].length > 0) process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
