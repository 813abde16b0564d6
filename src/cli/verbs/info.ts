/** `sluice info`. */
import type { Command } from 'commander';
import { image, type SourceFormat } from '../../node.ts';
import { humanSize } from '../format.ts';
import { writeResult } from '../output.ts';
import {
  addVerb,
  allowOption,
  type ChainOptions,
  type CommonOptions,
  forceShareOption,
  jsonText,
  lockOf,
  outputOption,
  policyOf,
  sourceFormatOption,
} from './common.ts';
import { snapshotLines } from './snapshot-list.ts';

const NOTES = `
Exit codes: 0 done; 1 failed.

Examples:
  sluice info disk.qcow2
  sluice info --backing-chain --output json disk.qcow2`;

interface InfoOptions extends CommonOptions, ChainOptions {
  readonly output: 'human' | 'json';
  readonly backingChain?: true;
}

export function addInfo(program: Command): void {
  addVerb(program, {
    name: 'info',
    usage: '[OPTIONS] IMAGE',
    summary: 'say what an image is',
    description: 'Says what an image is.',
    notes: NOTES,
    options: [sourceFormatOption(), outputOption(), forceShareOption(), allowOption()],
  })
    .option('--backing-chain', 'also of its backing files')
    .argument('<image>', 'a regular file, a block device, or an NBD URI')
    .action((path: string, options: InfoOptions) => info(path, options));
}

async function info(path: string, options: InfoOptions): Promise<void> {
  const { format, output, backingChain } = options;
  const how: { format: SourceFormat | undefined; lock: 'auto' | 'none' } = {
    format,
    lock: lockOf(options),
  };
  if (backingChain !== true) {
    const found = await image.info(path, how);
    return writeResult(output === 'json' ? jsonText(found) : humanInfo(found));
  }
  const chain = await image.chainInfo(path, { ...how, backing: policyOf(path, options) });
  return writeResult(output === 'json' ? jsonText(chain) : chain.map(humanInfo).join('\n'));
}

/** The lines of qemu-img. */
function humanInfo(found: image.ImageInfo): string {
  const { snapshots = [], 'actual-size': size } = found;
  const name = found['backing-filename'];
  const full = found['full-backing-filename'];
  const backing = name === full ? name : `${name} (actual path: ${full})`;
  const specific = found['format-specific'];
  const lines = [
    `image: ${found.filename}`,
    `file format: ${found.format}`,
    `virtual size: ${humanSize(found['virtual-size'])} (${found['virtual-size']} bytes)`,
    `disk size: ${size === undefined ? 'unavailable' : humanSize(size)}`,
    ...(found.encrypted === true ? ['encrypted: yes'] : []),
    ...(found['cluster-size'] === undefined ? [] : [`cluster_size: ${found['cluster-size']}`]),
    ...(found['dirty-flag'] === true ? ['cleanly shut down: no'] : []),
    ...(name === undefined ? [] : [`backing file: ${backing}`]),
    ...(found['backing-filename-format'] === undefined
      ? []
      : [`backing file format: ${found['backing-filename-format']}`]),
    ...(snapshots.length === 0 ? [] : snapshotLines(snapshots)),
    ...(specific === undefined
      ? []
      : ['Format specific information:', ...nested(specific.data, 1)]),
  ];
  return `${lines.join('\n')}\n`;
}

/** Keys and values, what is inside them indented; the members of a list are numbered. */
function nested(value: object, depth: number): string[] {
  const isList = Array.isArray(value);
  const lines: string[] = [];
  for (const [key, member] of Object.entries(value) as [string, unknown][]) {
    const name = `${'    '.repeat(depth)}${isList ? `[${key}]` : key.replaceAll('-', ' ')}:`;
    if (typeof member !== 'object' || member === null) lines.push(`${name} ${String(member)}`);
    else lines.push(name, ...nested(member, depth + 1));
  }
  return lines;
}
