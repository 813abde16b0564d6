// npm run bench:convert [-- --rounds N --mib N --only TEXT]
//
// `sluice convert`, and `image.convert` in a process that runs already, against `qemu-img convert
// -W -m CPUS` on the same disk in the same run: every round runs each once, into a file that is not
// there, after a sync. The disk is a quarter noise, a quarter holes, and half the bytes of a
// program. Prints medians, the spread from the lowest to the highest round, and how many times
// faster sluice is. The first counts the start of Node, some 0.1 s.

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
import { image } from '../dist/node.js';

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

const TO_QCOW2 = /** @type {const} */ ({ format: 'raw', targetFormat: 'qcow2' });
const TO_RAW = /** @type {const} */ ({ format: 'qcow2', targetFormat: 'raw' });
const AS_ZSTD = /** @type {const} */ ({ compress: true, image: { compression: 'zstd' } });

/**
 * `options` are those of the flags.
 * @type {{ name: string, from: string, way: string[], options: image.ConvertOptions }[]}
 */
const WORKLOADS = [
  { name: 'raw to qcow2', from: 'raw', way: [], options: TO_QCOW2 },
  { name: 'qcow2 to raw', from: 'qcow2', way: [], options: TO_RAW },
  { name: 'raw to deflate', from: 'raw', way: ['-c'], options: { ...TO_QCOW2, compress: true } },
  { name: 'deflate to raw', from: 'deflate', way: [], options: TO_RAW },
  { name: 'raw to zstd', from: 'raw', way: ['-c', ...ZSTD], options: { ...TO_QCOW2, ...AS_ZSTD } },
  { name: 'zstd to raw', from: 'zstd', way: [], options: TO_RAW },
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

/**
 * Seconds of one conversion into a file that is not there.
 * @param {(target: string) => void | Promise<void>} work
 */
async function time(work) {
  const target = join(folder, 'target');
  rmSync(target, { force: true });
  run('sync', []);
  const start = performance.now();
  await work(target);
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
  const cpus = String(availableParallelism());
  for (const { name, from, way, options: given } of WORKLOADS) {
    if (!name.includes(options.only)) continue;
    const path = pathOf(from);
    const flags = ['-f', given.format ?? '', '-O', given.targetFormat ?? '', ...way, path];
    const convert = ['convert', '-q', ...flags];
    const peer = ['convert', '-W', '-m', cpus, ...flags];
    /** @type {{ command: number[], inProcess: number[], theirs: number[] }} */
    const { command, inProcess, theirs } = { command: [], inProcess: [], theirs: [] };
    for (let round = 0; round < Number(options.rounds); round++) {
      command.push(await time((target) => run(process.execPath, [SLUICE, ...convert, target])));
      inProcess.push(await time((target) => image.convert(path, target, given)));
      theirs.push(await time((target) => run('qemu-img', [...peer, target])));
    }
    const ratios = [command, inProcess].map((ours) => (median(theirs) / median(ours)).toFixed(2));
    const texts = [
      `sluice ${spread(command)}: ${ratios[0]}x`,
      `in process ${spread(inProcess)}: ${ratios[1]}x`,
      `qemu-img ${spread(theirs)}`,
    ];
    console.log(`${name.padEnd(16)} ${texts.join(', ')}`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
