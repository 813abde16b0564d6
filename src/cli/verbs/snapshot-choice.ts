/** `-l`: a snapshot on the command line. */
import { Option } from 'commander';
import type { SnapshotChoice } from '../../image/qcow2/snapshot-header.ts';

export function snapshotOption(what: string): Option {
  const names = 'its id or name; or snapshot.id=ID, snapshot.name=NAME';
  return new Option('-l, --snapshot <snapshot>', `${what}: ${names}`).argParser(snapshotChoice);
}

/** As qemu-img takes it: a list of `snapshot.` options, or else an id or a name. */
function snapshotChoice(text: string): SnapshotChoice {
  if (!text.startsWith('snapshot.')) return text;
  const pairs = new Map(
    text.split(',').map((pair) => [pair.split('=', 1)[0], pair.slice(pair.indexOf('=') + 1)]),
  );
  const id = pairs.get('snapshot.id');
  const name = pairs.get('snapshot.name');
  if ((id ?? name) === undefined) return text;
  return { ...(id === undefined ? {} : { id }), ...(name === undefined ? {} : { name }) };
}
