/** `sluice bitmap`. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { image, type ImageFormat } from '../../node.ts';
import { onEach } from './change-options.ts';
import { addVerb, type CommonOptions, formatOption } from './common.ts';
import { parseSize } from './size.ts';

const NOTES = `
What is asked for is done in the order of the line; what was done stays when
something after it fails.
Exit codes: 0 all of it is done; 1 failed.

Examples:
  sluice bitmap --add -g 64k disk.qcow2 backup
  sluice bitmap --add --disable disk.qcow2 copy
  sluice bitmap --merge backup -b other.qcow2 -F qcow2 disk.qcow2 copy
  sluice bitmap --remove disk.qcow2 backup`;

interface BitmapOptions extends CommonOptions {
  readonly sourceFile?: string;
  readonly sourceFormat?: ImageFormat;
  readonly granularity?: number;
}

/** As the line has them. */
type Asked = { readonly do: image.BitmapAction['do']; readonly name: string };

const SWITCHES = ['add', 'remove', 'clear', 'enable', 'disable'] as const;

export function addBitmap(program: Command): void {
  const verb = addVerb(program, {
    name: 'bitmap',
    usage: '[OPTIONS] IMAGE BITMAP',
    summary: 'add, remove and change bitmaps of an image',
    description: 'Adds, removes and changes persistent bitmaps of an image.',
    notes: NOTES,
    options: [
      new Option('--add', 'make it; it is enabled'),
      new Option('--remove', 'remove it'),
      new Option('--clear', 'take all out of it'),
      new Option('--enable', 'let it learn what is written from now on'),
      new Option('--disable', 'let it stay as it is'),
      new Option('--merge <source>', 'add what another bitmap has'),
      new Option('-b, --source-file <file>', 'image of the bitmap that is merged'),
      formatOption('-F, --source-format <fmt>', 'that image'),
      new Option('-g, --granularity <size>', 'bytes of a bit, for --add').argParser(granularity),
      formatOption(),
    ],
  });
  const asked: Asked[] = [];
  for (const name of SWITCHES) onEach(verb, name, () => asked.push({ do: name, name: '' }));
  onEach(verb, 'merge', (source) => asked.push({ do: 'merge', name: source }));
  verb
    .argument('<image>', 'a regular file or a block device')
    .argument('<bitmap>', 'its name')
    .action((path: string, name: string, options: BitmapOptions) => {
      const wrong = wrongUse(asked, options);
      if (wrong !== undefined) verb.error(wrong);
      const { format } = options;
      return image.bitmap(
        path,
        name,
        asked.map((one) => actionOf(one, options)),
        { format },
      );
    });
}

function wrongUse(asked: readonly Asked[], options: BitmapOptions): string | undefined {
  const { sourceFile, sourceFormat, granularity: bytes } = options;
  const has = (name: Asked['do']): boolean => asked.some((one) => one.do === name);
  const names = [...SWITCHES, 'merge'].map((name) => `--${name}`).join(', ');
  if (asked.length === 0) return `what is to be done? Pass one of ${names}`;
  if (bytes !== undefined && !has('add')) return 'a granularity (-g) is for --add';
  if (sourceFile !== undefined && !has('merge')) return 'a source file (-b) is for --merge';
  if (sourceFormat === undefined || sourceFile !== undefined) return undefined;
  return 'a format was given (-F), and no source file (-b)';
}

function actionOf({ do: what, name }: Asked, options: BitmapOptions): image.BitmapAction {
  const { sourceFile, sourceFormat, granularity: bytes } = options;
  if (what === 'merge') return { do: what, name, path: sourceFile, format: sourceFormat };
  if (what !== 'add' || bytes === undefined) return { do: what };
  return { do: what, granularityBytes: bytes };
}

function granularity(text: string): number {
  const bytes = parseSize(text);
  if (bytes !== undefined && bytes >= 512 && Number.isInteger(Math.log2(bytes))) return bytes;
  throw new InvalidArgumentError('It must be a power of two, 512 at least.');
}
