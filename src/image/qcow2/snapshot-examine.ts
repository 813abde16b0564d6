/** What an image must be before its snapshots are changed: whole, and understood. */
import { SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import { check, type CheckReport, readFrom } from './check.ts';
import type { FindingKind } from './check-findings.ts';
import { Scan } from './check-scan.ts';
import { hex } from './fields.ts';
import type { Qcow2Header } from './header.ts';
import { repairDirty } from './repair.ts';
import { readSnapshotEntries, type SnapshotEntry } from './snapshot-entries.ts';
import { RefcountChange } from './snapshot-refcounts.ts';
import { findWrongCopied } from './snapshot-references.ts';

/** An image that was found to be sound. */
export interface Examined {
  /** As it is in the file now. */
  readonly header: Qcow2Header;
  readonly entries: readonly SnapshotEntry[];
  /** Nothing is changed by it yet. */
  readonly change: RefcountChange;
}

/** How an image is looked at. */
export interface ExamineOptions {
  readonly signal?: AbortSignal | undefined;
  readonly notice?: ((text: string) => unknown) | undefined;
}

/** Clusters that nothing refers to; and flags, which are looked at here. */
const HARMLESS: ReadonlySet<string> = new Set<FindingKind>(['leak', 'l1-copied', 'l2-copied']);

/**
 * Checks the whole image. One that was not closed is repaired before; else nothing is written.
 * @throws SluiceError ERR_SLUICE_CORRUPT, or ERR_SLUICE_UNSUPPORTED for an external data file
 */
export async function examine(
  file: ImageFile,
  found: Qcow2Header,
  path: string,
  what: string,
  { signal, notice }: ExamineOptions,
): Promise<Examined> {
  refuseDataFile(found, what);
  if (found.corrupt) throw damaged(what, 'the image is marked corrupt');
  signal?.throwIfAborted();
  const header = await repairDirty(file, found, path, notice);
  const scan = new Scan(header, file.sizeBytes);
  const report = await readFrom(file, check(scan), signal);
  refuseDamage(report, what);
  const { refcounts } = scan.counts;
  const wrong = hasFlags(report)
    ? await findWrongCopied(file, header, header, refcounts, signal)
    : undefined;
  if (wrong !== undefined) {
    const place = `the cluster at offset ${hex(wrong * header.clusterBytes)}`;
    throw damaged(what, `${place} has a COPIED flag, and its refcount is ${refcounts[wrong]}`);
  }
  const entries = await readSnapshotEntries(file, header, path);
  return { header, entries, change: new RefcountChange(scan) };
}

/** Where its data lies is all that an L2 entry says there: no two disks can share a cluster. */
function refuseDataFile({ dataFile }: Qcow2Header, what: string): void {
  if (dataFile === undefined) return;
  const found = 'its data lies in an external data file, where snapshots cannot be';
  const advice = 'put an overlay on it, or convert it';
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `${what}: ${found}; ${advice}`);
}

function hasFlags({ counts }: CheckReport): boolean {
  return counts['l1-copied'] !== undefined || counts['l2-copied'] !== undefined;
}

function refuseDamage({ counts, findings }: CheckReport, what: string): void {
  const kinds = Object.keys(counts).filter((kind) => !HARMLESS.has(kind));
  if (kinds.length === 0) return;
  const harmless = /^(a cluster has fewer|the COPIED flag)/;
  const first = findings.find((text) => !harmless.test(text)) ?? kinds.join(', ');
  throw damaged(what, `it is damaged: ${first}`);
}

function damaged(what: string, found: string): SluiceError {
  return new SluiceError('ERR_SLUICE_CORRUPT', `${what}: ${found}; check and repair the image`);
}
