// npm run bench:convert [-- --rounds N --mib N --only TEXT]
//
// `sluice convert` against `qemu-img convert -W -m CPUS` on the same disk in the same run: every
// round runs each once, into a file that is not there, after a sync. The disk is a quarter noise, a
// quarter holes, and half the bytes of a program. Prints medians, the spread from the lowest to the
// highest round, and how many times faster sluice is.

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const SLUICE = fileURLToPath(new URL('../dist/bin.cjs', import.meta.url));
const MIB = 1 << 20;

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    mib: { type: 'string', default: '1024' },
    only: { type: 'string', default: '' },
  },
});

const folder = mkdtempSync(join(tmpdir(), 'sluice-bench-'));
const ZSTD = ['-o', 'compression_type=zstd'];

/** @type {{ name: string, from: string, way: string[] }[]} */
const WORKLOADS = [
  { name: 'raw to qcow2', from: 'raw', way: ['-f', 'raw', '-O', 'qcow2'] },
  { name: 'qcow2 to raw', from: 'qcow2', way: ['-f', 'qcow2', '-O', 'raw'] },
  { name: 'raw to deflate', from: 'raw', way: ['-f', 'raw', '-O', 'qcow2', '-c'] },
  { name: 'deflate to raw', from: 'deflate', way: ['-f', 'qcow2', '-O', 'raw'] },
  { name: 'raw to zstd', from: 'raw', way: ['-f', 'raw', '-O', 'qcow2', '-c', ...ZSTD] },
  { name: 'zstd to raw', from: 'zstd', way: ['-f', 'qcow2', '-O', 'raw'] },
];

function makeDisk(/** @type {string} */ path, /** @type {number} */ mib) {
  const program = readFileSync(process.execPath);
  const fd = openSync(path, 'w');
  for (let at = 0; at < mib; at++) {
    const kind = at % 4;
    if (kind === 3) continue;
    const from = (at * 7_919_993) % (program.length - MIB);
    writeSync(fd, kind === 0 ? randomBytes(MIB) : program, kind === 0 ? 0 : from, MIB, at * MIB);
  }
  ftruncateSync(fd, mib * MIB);
  closeSync(fd);
}

function run(/** @type {string} */ program, /** @type {string[]} */ args) {
  const { status, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${stderr}`);
}

/** Seconds of one conversion. */
function time(/** @type {string} */ program, /** @type {string[]} */ args) {
  const target = join(folder, 'target');
  rmSync(target, { force: true });
  run('sync', []);
  const start = performance.now();
  run(program, [...args, target]);
  return (performance.now() - start) / 1000;
}

function spread(/** @type {number[]} */ values) {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (/** @type {number} */ index) => (sorted[index] ?? Number.NaN).toFixed(2);
  return `${at(sorted.length >> 1)} s (${at(0)}-${at(sorted.length - 1)})`;
}

function median(/** @type {number[]} */ values) {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

try {
  const images = Object.fromEntries(
    ['raw', 'qcow2', 'deflate', 'zstd'].map((name) => [name, join(folder, name)]),
  );
  const pathOf = (/** @type {string} */ name) => /** @type {string} */ (images[name]);
  makeDisk(pathOf('raw'), Number(options.mib));
  const convert = ['convert', '-f', 'raw', '-O', 'qcow2'];
  run('qemu-img', [...convert, pathOf('raw'), pathOf('qcow2')]);
  run('qemu-img', [...convert, '-c', pathOf('raw'), pathOf('deflate')]);
  run('qemu-img', [...convert, '-c', ...ZSTD, pathOf('raw'), pathOf('zstd')]);
  for (const { name, from, way } of WORKLOADS) {
    if (!name.includes(options.only)) continue;
    /** @type {number[]} */
    const ours = [];
    /** @type {number[]} */
    const theirs = [];
    for (let round = 0; round < Number(options.rounds); round++) {
      ours.push(time(process.execPath, [SLUICE, 'convert', '-q', ...way, pathOf(from)]));
      const cpus = String(availableParallelism());
      theirs.push(time('qemu-img', ['convert', '-W', '-m', cpus, ...way, pathOf(from)]));
    }
    const ratio = (median(theirs) / median(ours)).toFixed(2);
    console.log(`${name.padEnd(16)} sluice ${spread(ours)}, qemu-img ${spread(theirs)}: ${ratio}x`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
