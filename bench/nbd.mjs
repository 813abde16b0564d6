// npm run bench:nbd [-- --rounds N --seconds S --only TEXT --all --list --with='ARGS'
//                       --json FILE --markdown FILE --plots FOLDER --from FILE]
//
// `sluice serve` against qemu-nbd (threads, io_uring, native) and nbdkit: IOPS, latency and
// processor time over NBD on a unix socket. One server at a time on the same image, fio as the
// client; every round measures each server once, so that whatever else the machine does falls on
// all of them. Raw images have a floor, too, a server in C that does the least that a server can do
// (bench/c/nbd-floor.c; nbd-floor-loop.c where several connections flush; nbd-floor-direct.c with
// O_DIRECT): what it gets is what the client, the kernel and the disk leave. --only picks rows by
// name. --all adds every format, cache, size, order, direction and depth. --with adds a sluice with
// further arguments, and may be repeated. --from reports what an earlier run wrote to --json.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { hasPeer } from '../scripts/peers.mjs';
import { machine } from './nbd/machine.mjs';
import { Images, measure } from './nbd/measure.mjs';
import { plot } from './nbd/plot.mjs';
import { groupsOf, latencyTable, lines, misses, throughputTable } from './nbd/report.mjs';
import { compileFloors, serversOf } from './nbd/servers.mjs';
import { workloads } from './nbd/workloads.mjs';

/** @typedef {import('./nbd/report.mjs').Row} Row */
/** @typedef {{ machine: ReturnType<typeof machine>, rows: Row[] }} Report */

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
    all: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
    with: { type: 'string', multiple: true, default: [] },
    json: { type: 'string' },
    markdown: { type: 'string' },
    plots: { type: 'string' },
    from: { type: 'string' },
  },
});

const USAGE = `npm run bench:nbd -- [OPTIONS]

  --rounds N, --seconds S   how often and how long each server is measured in a row (3, 1)
  --only TEXT               the row of that name, or those whose names have it
  --all                     rows of every format, cache, size, order, direction and depth, too
  --list                    the names of the rows
  --with='ARGS'             a sluice with further arguments; may be repeated
  --json FILE               numbers
  --markdown FILE           tables
  --plots FOLDER            plots, as SVG
  --from FILE               from the numbers of an earlier run`;

/**
 * The number that was given with an option.
 * @param {'rounds' | 'seconds'} name
 * @param {RegExp} shape
 */
function count(name, shape) {
  const number = Number(options[name]);
  if (shape.test(options[name]) && number > 0) return number;
  throw new Error(`--${name} must be a number above 0, not ${options[name]}`);
}

/** The rows that are asked for. */
function chosen() {
  const rows = workloads(options.all ? 'all' : 'main');
  const named = rows.filter(({ name }) => name === options.only);
  const found = named.length > 0 ? named : rows.filter(({ name }) => name.includes(options.only));
  if (found.length === 0) throw new Error(`no row has "${options.only}" in its name; see --list`);
  return found;
}

/** Measures the rows, and shows each when it is done. */
async function run() {
  for (const program of /** @type {const} */ (['fio', 'qemu-img'])) {
    if (!hasPeer(program)) throw new Error(`${program} is not installed`);
  }
  const chosenRows = chosen();
  const folder = mkdtempSync(join(tmpdir(), 'sluice-bench-'));
  /** @type {Row[]} */
  const rows = [];
  const how = { rounds: count('rounds', /^[1-9]\d*$/), seconds: count('seconds', /^\d*\.?\d+$/) };
  try {
    const images = new Images(folder);
    const floors = compileFloors(folder);
    for (const workload of chosenRows) {
      const { name, group, target } = workload;
      const servers = serversOf(workload, options.with, floors);
      const results = await measure(workload, servers, { ...how, images, folder });
      const row = { name, group, target, results };
      rows.push(row);
      console.log(lines(row).join('\n'));
      // A run takes long: what is measured is not lost with what comes after it.
      save({ machine: machine(), rows });
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return { machine: machine(), rows };
}

function save(/** @type {Report} */ report) {
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(report)}\n`);
}

/** The tables of a report. */
function markdown(/** @type {Report} */ report) {
  const { processors, model, memoryMib, kernel, versions } = report.machine;
  const texts = Object.entries(versions).map(([program, version]) => `${program} ${version}`);
  const head =
    `${processors} x ${model}, ${memoryMib} MiB, Linux ${kernel}; ${texts.join(', ')}. ` +
    'Medians (lowest-highest round); latency and processor time are those of ' +
    'sluice / the best qemu-nbd / nbdkit. The floor is a server in C that only calls pread, ' +
    'pwrite and fdatasync, with O_DIRECT by io_uring.';
  const groups = [...groupsOf(report.rows)].map(([group, rows]) =>
    [`## ${group}`, throughputTable(rows).join('\n'), latencyTable(rows).join('\n')].join('\n\n'),
  );
  return `${['# NBD', head, ...groups].join('\n\n')}\n`;
}

/** Measures, or reads what was measured, and reports it. */
async function main() {
  // Before hours of measuring, not after them.
  if (options.plots !== undefined) mkdirSync(options.plots, { recursive: true });
  /** @type {Report} */
  const report =
    options.from === undefined ? await run() : JSON.parse(readFileSync(options.from, 'utf8'));
  if (options.markdown !== undefined) writeFileSync(options.markdown, markdown(report));
  if (options.plots !== undefined) {
    for (const [group, rows] of groupsOf(report.rows)) {
      const name = group.replaceAll(/[^a-z0-9]+/gi, '-').toLowerCase();
      writeFileSync(join(options.plots, `nbd-${name}.svg`), plot(group, rows));
    }
  }
  for (const text of report.rows.flatMap((row) => misses(row))) console.log(text);
}

if (options.help) console.log(USAGE);
else if (options.list) for (const { name } of chosen()) console.log(name);
else await main();
