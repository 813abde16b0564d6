/** A snapshot as if it were the disk: for reading what the tables of one say. */
import { SluiceError } from '../../errors.ts';
import { type Check, isText, objectOf } from '../../options.ts';
import type { ImageFile } from '../image-file.ts';
import type { Qcow2Header } from './header.ts';
import { findSnapshot } from './snapshot-entries.ts';
import { readSnapshotTable } from './snapshot-table.ts';

/** Which snapshot: the one with this id or else this name; or with the id, the name, or both. */
export type SnapshotChoice = string | { readonly id?: string; readonly name?: string };

const isIdOrName = objectOf({ id: isText, name: isText });

/** A SnapshotChoice. */
export const isSnapshotChoice: Check = (value, name) => {
  if (typeof value !== 'string') isIdOrName(value, name);
};

const NOTHING = new Uint8Array(0);

/**
 * The header with the L1 table of a snapshot; the disk is as large as it is now, as in qemu-img.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT where there is no such snapshot,
 *   ERR_SLUICE_CORRUPT where it is damaged
 */
export async function headerAtSnapshot(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  choice: SnapshotChoice,
): Promise<Qcow2Header> {
  const { snapshots } = await readSnapshotTable(file, header, path);
  const { id, name } = typeof choice === 'string' ? {} : choice;
  const isFree = id === undefined || name === undefined;
  const entries = snapshots
    .filter((snapshot) => isFree || snapshot.name === name)
    .map((snapshot) => ({ snapshot, bytes: NOTHING }));
  const wanted = typeof choice === 'string' ? choice : (id ?? name ?? '');
  const keys = typeof choice === 'string' ? BOTH : id === undefined ? NAME : ID;
  const { snapshot } = findSnapshot(entries, wanted, keys, path);
  const { l1Offset, l1Entries, problem } = snapshot;
  if (problem === undefined) return { ...header, l1Offset, l1Entries };
  const message = `cannot read a snapshot of ${JSON.stringify(path)}: ${problem}; check the image`;
  throw new SluiceError('ERR_SLUICE_CORRUPT', message, { path });
}

const BOTH = ['id', 'name'] as const;
const ID = ['id'] as const;
const NAME = ['name'] as const;
