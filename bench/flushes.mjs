// npm run bench:flush [-- --rounds N --only TEXT --scale X --json FILE]
//
// How many syncs, and how much time, writers that flush cost: sluice against qemu-nbd and nbdkit on
// the same image in the same run, with a libnbd client on one connection. Every round measures each
// server once. Syncs are counted by strace; time is taken without it, except where strace makes the
// disk slow. Prints a Markdown table: medians, lowest and highest round, ratios.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { hasPeer } from '../scripts/peers.mjs';
import { measure } from './flushes/measure.mjs';
import { formatRow, HEADINGS } from './flushes/report.mjs';
import { installedServers } from './flushes/servers.mjs';
import { workloads } from './flushes/workloads.mjs';

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    only: { type: 'string', default: '' },
    scale: { type: 'string', default: '1' },
    json: { type: 'string' },
  },
});

for (const program of /** @type {const} */ (['strace', 'nbdsh'])) {
  if (!hasPeer(program)) throw new Error(`${program} is not installed`);
}

const folder = mkdtempSync(join(tmpdir(), 'sluice-bench-'));
try {
  const servers = installedServers();
  /** @type {Record<string, import('./flushes/measure.mjs').Result[]>} */
  const all = {};
  console.log(HEADINGS.join('\n'));
  for (const workload of workloads(Number(options.scale))) {
    if (!workload.name.includes(options.only)) continue;
    const results = await measure(workload, servers, { folder, rounds: Number(options.rounds) });
    console.log(formatRow(workload, results).join('\n'));
    all[workload.name] = results;
  }
  if (options.json !== undefined) writeFileSync(options.json, JSON.stringify(all, undefined, 2));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
