/** `sluice map`. */
import { type Command, Option } from 'commander';
import { image, SluiceError } from '../../node.ts';
import { writePart, writeResult } from '../output.ts';
import {
  addVerb,
  allowOption,
  type ChainOptions,
  type CommonOptions,
  forceShareOption,
  lockOf,
  outputOption,
  policyOf,
  sourceFormatOption,
} from './common.ts';
import { sizeArgument } from './size.ts';

const NOTES = `
Human output has the ranges with data that can be read from a file as they are;
where data is compressed or encrypted there are none, and the exit code is 1.
JSON has all ranges: depth 0 is the image, 1 its backing file; present: an image
of the chain says something of it.

Examples:
  sluice map disk.qcow2
  sluice map --output json --start-offset 1G --max-length 1M disk.qcow2`;

const PIECE_CHARACTERS = 65_536;

interface MapOptions extends CommonOptions, ChainOptions {
  readonly output: 'human' | 'json';
  readonly startOffset?: number;
  readonly maxLength?: number;
}

export function addMap(program: Command): void {
  addVerb(program, {
    name: 'map',
    usage: '[OPTIONS] IMAGE',
    summary: 'say where the bytes of a disk lie',
    description: 'Says where the bytes of a disk lie, in which file of its chain.',
    notes: NOTES,
    options: [
      sourceFormatOption(),
      outputOption(),
      new Option('-s, --start-offset <size>', 'begin there').argParser(sizeArgument),
      new Option('-l, --max-length <size>', 'end after so many bytes').argParser(sizeArgument),
      forceShareOption(),
      allowOption(),
    ],
  })
    .argument('<image>', 'a regular file, a block device, or an NBD URI')
    .action((path: string, options: MapOptions) => map(path, options));
}

async function map(path: string, options: MapOptions): Promise<void> {
  const { format, output, startOffset, maxLength } = options;
  const how = { format, lock: lockOf(options), backing: policyOf(path, options) };
  const extents = image.map(path, { ...how, startOffset, maxLength });
  const lines = output === 'json' ? jsonLines(extents, startOffset ?? 0) : humanLines(extents);
  await writePieces(lines);
}

/** A disk may have more ranges than there is memory for their text. */
async function writePieces(texts: AsyncIterable<string>): Promise<void> {
  let piece = '';
  try {
    for await (const text of texts) {
      piece += text;
      if (piece.length < PIECE_CHARACTERS) continue;
      const full = piece;
      piece = '';
      if (!(await writePart(full))) return;
    }
  } finally {
    // What was told before an error stands, as with qemu-img.
    await writeResult(piece);
  }
}

/** Where there are no bytes, qemu-img tells one range without any. */
const NOTHING = { start: 0, length: 0, depth: 0, present: false, zero: false, data: false };

async function* jsonLines(
  extents: AsyncIterable<image.MapExtent>,
  start: number,
): AsyncGenerator<string> {
  let before = '[';
  for await (const { filename: _, ...extent } of extents) {
    yield `${before}${JSON.stringify(extent)}`;
    before = ',\n';
  }
  if (before === '[') yield `[${JSON.stringify({ ...NOTHING, start })}`;
  yield ']\n';
}

async function* humanLines(extents: AsyncIterable<image.MapExtent>): AsyncGenerator<string> {
  // An image that cannot be opened has none.
  let header = row('Offset', 'Length', 'Mapped to', 'File');
  for await (const { start, length, data, zero, offset, filename } of extents) {
    yield header;
    header = '';
    if (!data || zero) continue;
    if (offset === undefined || filename === undefined) {
      const found = `the ${length} bytes at offset ${start} are compressed or encrypted`;
      const message = `cannot map the disk for reading: ${found}; use --output json`;
      throw new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { operation: 'map' });
    }
    yield row(hex(start), hex(length), hex(offset), filename);
  }
  yield header;
}

function row(start: string, length: string, offset: string, file: string): string {
  return `${start.padEnd(16)}${length.padEnd(16)}${offset.padEnd(16)}${file}\n`;
}

function hex(number: number): string {
  return number === 0 ? '0' : `0x${number.toString(16)}`;
}
