/** `sluice snapshot`. */
import { type Command, Option } from 'commander';
import { image } from '../../node.ts';
import { writeResult } from '../output.ts';
import type { Terminal } from '../terminal.ts';
import { onEach } from './change-options.ts';
import {
  addVerb,
  type CommonOptions,
  forceShareOption,
  formatOption,
  jsonText,
  lockOf,
  outputOption,
  quietOption,
} from './common.ts';
import { snapshotLines } from './snapshot-list.ts';

const NOTES = `
Without -a, -c and -d the snapshots are listed. -a takes an id or a name, -d a
name; of several snapshots with one name it is the first.
Exit codes: 0 done; 1 failed, and the image is what it was.

Examples:
  sluice snapshot -c before-upgrade disk.qcow2
  sluice snapshot -l disk.qcow2
  sluice snapshot -a before-upgrade disk.qcow2
  sluice snapshot -d before-upgrade disk.qcow2`;

const ACTIONS = ['list', 'apply', 'create', 'delete'] as const;

interface SnapshotOptions extends CommonOptions {
  readonly output: 'human' | 'json';
  readonly apply?: string;
  readonly create?: string;
  readonly delete?: string;
  readonly quiet?: true;
}

export function addSnapshot(program: Command, terminal: Terminal): void {
  const verb = addVerb(program, {
    name: 'snapshot',
    usage: '[OPTIONS] IMAGE',
    summary: 'take, apply and delete snapshots inside an image',
    description: 'Lists, takes, applies and deletes snapshots inside an image.',
    notes: NOTES,
    options: [
      new Option('-l, --list', 'list them'),
      new Option('-a, --apply <name>', 'make the disk what it was then'),
      new Option('-c, --create <name>', 'take one'),
      new Option('-d, --delete <name>', 'delete one'),
      formatOption(),
      quietOption(),
      forceShareOption(),
      outputOption(),
    ],
  });
  let asked = 0;
  for (const action of ACTIONS) onEach(verb, action, () => asked++);
  verb
    .argument('<image>', 'a regular file or a block device')
    .action((path: string, options: SnapshotOptions) => {
      if (asked > 1) verb.error('-l, -a, -c and -d do not go together: pass one of them');
      const changes = [options.apply, options.create, options.delete].some((name) => name);
      if (changes && options.forceShare) verb.error('-U is for reading: leave it out, or list');
      return snapshot(path, options, terminal);
    });
}

async function snapshot(path: string, options: SnapshotOptions, terminal: Terminal): Promise<void> {
  const { format, output, quiet } = options;
  const onNotice = quiet === true ? undefined : (text: string) => terminal.line(text);
  const how = { format, onNotice };
  const done =
    options.create !== undefined
      ? await image.createSnapshot(path, options.create, how)
      : options.apply !== undefined
        ? await image.applySnapshot(path, options.apply, how)
        : options.delete !== undefined
          ? await image.deleteSnapshot(path, options.delete, how)
          : undefined;
  if (done !== undefined) return output === 'json' ? writeResult(jsonText(done)) : undefined;
  const found = await image.snapshots(path, { format, lock: lockOf(options) });
  if (output === 'json') return writeResult(jsonText(found));
  if (found.length > 0) await writeResult(`${snapshotLines(found).join('\n')}\n`);
}
