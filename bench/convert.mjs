// npm run bench:convert [-- --rounds N --mib N --only TEXT]
//
// `sluice convert` and `sluice compare`, and `image.convert` and `image.compare` in a process that
// runs already, against `qemu-img convert -W -m CPUS` and `qemu-img compare` on the same disk in
// the same run: every round runs each once, into a file that is not there, after a sync. The disk
// is a quarter noise, a quarter holes, and half the bytes of a program. Prints medians, the spread
// from the lowest to the highest round, and how many times faster sluice is. The first counts the
// start of Node, some 0.1 s.

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
import { run } from './program.mjs';
import { median } from './statistics.mjs';

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

const cpus = String(availableParallelism());

/**
 * What is timed: of sluice's command and of QEMU's, and in this process.
 * @typedef {object} Workload
 * @property {string} name
 * @property {string[]} command
 * @property {string[]} peer
 * @property {(target: string) => Promise<unknown>} inProcess
 */

/**
 * `options` are those of the flags.
 * @type {(from: string, to: string, flags: string[], options: image.ConvertOptions) => Workload}
 */
function conversion(from, to, flags, options) {
  const { format = '', targetFormat = '' } = options;
  const args = ['-f', format, '-O', targetFormat, ...flags, pathOf(from)];
  return {
    name: `${from} to ${to}`,
    command: ['convert', '-q', ...args],
    peer: ['convert', '-W', '-m', cpus, ...args],
    inProcess: (target) => image.convert(pathOf(from), target, options),
  };
}

/**
 * Of two images that have the same disk.
 * @type {(one: string, other: string) => Workload}
 */
function comparison(one, other) {
  const format = formatOf(one);
  const otherFormat = formatOf(other);
  const args = ['compare', '-f', format, '-F', otherFormat, pathOf(one), pathOf(other)];
  return {
    name: `${one} and ${other}`,
    command: args,
    peer: args,
    inProcess: () =>
      image.compare(pathOf(one), pathOf(other), {
        first: { format },
        second: { format: otherFormat },
      }),
  };
}

const WORKLOADS = [
  conversion('raw', 'qcow2', [], TO_QCOW2),
  conversion('qcow2', 'raw', [], TO_RAW),
  conversion('raw', 'deflate', ['-c'], { ...TO_QCOW2, compress: true }),
  conversion('deflate', 'raw', [], TO_RAW),
  conversion('raw', 'zstd', ['-c', ...ZSTD], { ...TO_QCOW2, ...AS_ZSTD }),
  conversion('zstd', 'raw', [], TO_RAW),
  comparison('raw', 'copy'),
  comparison('raw', 'qcow2'),
  comparison('deflate', 'zstd'),
];

function pathOf(/** @type {string} */ name) {
  return join(folder, name);
}

/** @type {(name: string) => 'raw' | 'qcow2'} */
function formatOf(name) {
  return name === 'raw' || name === 'copy' ? 'raw' : 'qcow2';
}

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

/**
 * Seconds of one run; a target is not there before.
 * @param {(target: string) => unknown} work
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
  const [middle, least, most] = [median(values), Math.min(...values), Math.max(...values)];
  return `${middle.toFixed(2)} s (${least.toFixed(2)}-${most.toFixed(2)})`;
}

try {
  makeDisk(pathOf('raw'), Number(options.mib));
  const convert = ['convert', '-f', 'raw', '-O', 'qcow2'];
  run('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', pathOf('raw'), pathOf('copy')]);
  run('qemu-img', [...convert, pathOf('raw'), pathOf('qcow2')]);
  run('qemu-img', [...convert, '-c', pathOf('raw'), pathOf('deflate')]);
  run('qemu-img', [...convert, '-c', ...ZSTD, pathOf('raw'), pathOf('zstd')]);
  for (const { name, command, peer, inProcess } of WORKLOADS) {
    if (!name.includes(options.only)) continue;
    /** @type {Record<'command' | 'inProcess' | 'theirs', number[]>} */
    const seconds = { command: [], inProcess: [], theirs: [] };
    const goesTo = (/** @type {string[]} */ args, /** @type {string} */ target) =>
      args[0] === 'convert' ? [...args, target] : args;
    for (let round = 0; round < Number(options.rounds); round++) {
      seconds.command.push(
        await time((target) => run(process.execPath, [SLUICE, ...goesTo(command, target)])),
      );
      seconds.inProcess.push(await time(inProcess));
      seconds.theirs.push(await time((target) => run('qemu-img', goesTo(peer, target))));
    }
    const theirs = median(seconds.theirs);
    const ratio = (/** @type {number[]} */ ours) => `${(theirs / median(ours)).toFixed(2)}x`;
    const texts = [
      `sluice ${spread(seconds.command)}: ${ratio(seconds.command)}`,
      `in process ${spread(seconds.inProcess)}: ${ratio(seconds.inProcess)}`,
      `qemu-img ${spread(seconds.theirs)}`,
    ];
    console.log(`${name.padEnd(16)} ${texts.join(', ')}`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
