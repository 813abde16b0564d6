/** `sluice bench`. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { CacheModeName } from '../../cache-mode.ts';
import { refuseUri } from '../../image/image-at.ts';
import { image } from '../../node.ts';
import { formatBytes, formatCount } from '../format.ts';
import { writeResult } from '../output.ts';
import {
  addVerb,
  allowOption,
  cacheOption,
  type ChainOptions,
  type CommonOptions,
  forceShareOption,
  formatOption,
  jsonText,
  lockOf,
  outputOption,
  policyOf,
  quietOption,
} from './common.ts';
import { type KeyOptions, keyOptions, readKey } from './key.ts';
import { sizeArgument } from './size.ts';

const NOTES = `
Requests go one behind the other over the disk, and again from its start.
With -w what is on the disk is lost.

Examples:
  sluice bench -f raw disk.img
  sluice bench -f qcow2 -w -c 10000 --flush-interval 64 -t none scratch.qcow2`;

const DEFAULT_COUNT = 75_000;
const DEFAULT_DEPTH = 64;
const DEFAULT_BYTES = 4096;

interface BenchOptions extends CommonOptions, ChainOptions, KeyOptions {
  readonly output: 'human' | 'json';
  readonly count: number;
  readonly depth: number;
  readonly size: number;
  readonly stepSize?: number;
  readonly offset: number;
  readonly write?: true;
  readonly pattern: number;
  readonly flushInterval?: number;
  readonly drain: boolean;
  readonly cache: CacheModeName;
  readonly nocache?: true;
  readonly quiet?: true;
}

export function addBench(program: Command): void {
  addVerb(program, {
    name: 'bench',
    usage: '[OPTIONS] IMAGE',
    summary: 'measure how fast requests are answered',
    description: 'Measures how fast requests to a disk are answered.',
    notes: NOTES,
    options: [formatOption(), outputOption(), ...requestOptions(), ...hostOptions()],
  })
    .argument('<image>', 'a regular file or a block device')
    .action((path: string, options: BenchOptions) => bench(path, options));
}

function requestOptions(): Option[] {
  return [
    new Option('-c, --count <n>', 'requests').argParser(whole).default(DEFAULT_COUNT),
    new Option('-d, --depth <n>', 'requests at once').argParser(whole).default(DEFAULT_DEPTH),
    new Option('-s, --size <size>', 'bytes of a request')
      .argParser(sizeArgument)
      .default(DEFAULT_BYTES),
    new Option('-S, --step-size <size>', 'from one request to the next (as -s)').argParser(
      sizeArgument,
    ),
    new Option('-o, --offset <size>', 'where the first one is').argParser(sizeArgument).default(0),
    new Option('-w, --write', 'write instead of reading'),
    new Option('--pattern <byte>', 'what is written').argParser(whole).default(0),
    new Option('--flush-interval <n>', 'flush after as many writes').argParser(whole),
    new Option('--no-drain', 'requests do not wait for flushes, nor flushes for them'),
  ];
}

function hostOptions(): Option[] {
  return [
    cacheOption(),
    new Option('-n, --nocache', 'as -t none'),
    quietOption(),
    ...keyOptions(),
    forceShareOption(),
    allowOption(),
  ];
}

async function bench(path: string, options: BenchOptions): Promise<void> {
  const { count, depth, size, stepSize, offset, write, pattern, flushInterval, output } = options;
  refuseUri(path);
  const format = options.format ?? (await image.info(path, { lock: lockOf(options) })).format;
  const result = await image.bench(path, {
    format: format as 'raw' | 'qcow2',
    lock: lockOf(options),
    cache: options.nocache === true ? 'none' : options.cache,
    ...(format === 'qcow2' ? { backing: policyOf(path, options) } : {}),
    encryption: await readKey(options),
    count,
    requestDepth: depth,
    requestBytes: size,
    stepBytes: stepSize,
    offset,
    pattern: write === true ? pattern : undefined,
    flushEvery: flushInterval,
    drain: options.drain,
  });
  if (output === 'json') return writeResult(jsonText(result));
  if (options.quiet !== true) await writeResult(humanText(result, options));
}

function humanText(result: image.BenchResult, { write, size, depth }: BenchOptions): string {
  const { seconds, iops, bw_bytes, clat_ns } = result;
  const kind = write === true ? 'writes' : 'reads';
  const micros = (nanoseconds: number): string => `${(nanoseconds / 1000).toFixed(1)} us`;
  const shares = Object.entries(clat_ns.percentile).map(
    ([share, value]) => `${Number(share)}% ${micros(value)}`,
  );
  const lines = [
    `${result.requests} ${kind} of ${size} bytes, ${depth} at once: ${seconds.toFixed(3)} seconds`,
    `${formatCount(iops)} requests/s, ${formatBytes(bw_bytes)}/s`,
    `latency: mean ${micros(clat_ns.mean)}, ${shares.join(', ')}, max ${micros(clat_ns.max)}`,
  ];
  return `${lines.join('\n')}\n`;
}

function whole(text: string): number {
  if (/^\d+$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It must be a whole number.');
}
