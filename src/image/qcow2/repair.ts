/**
 * The repair of a qcow2 image: refcounts, COPIED flags, and the marks that say that they are
 * wrong. Nothing else is changed: no data, no mapping.
 *
 * R1 At no time is the image worse than before. Refcounts are raised before flags are set and
 *    lowered after; a new refcount table is stable before the header names it; the marks go last.
 * R2 Refcounts are lowered only if nothing is wrong that this cannot repair: where a reference
 *    may be lost, a leak may be the data that it led to.
 * R3 A table that something else uses as well is not written, and nothing is put past the end of
 *    the file while the image refers to what is there.
 * R4 The marks (dirty, corrupt) are cleared only if all is right afterwards.
 */

import {
  HEADER_AUTOCLEAR_FEATURES,
  HEADER_INCOMPATIBLE_FEATURES,
  INCOMPATIBLE_CORRUPT_BIT,
  INCOMPATIBLE_DIRTY_BIT,
} from '../../abi/qcow2.ts';
import { SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import { check, type CheckReport, countReferences, readFrom } from './check.ts';
import type { FindingKind } from './check-findings.ts';
import { Scan } from './check-scan.ts';
import type { Qcow2Header } from './header.ts';
import { fixCopied } from './repair-copied.ts';
import { canSetInPlace, rebuildRefcounts, setRefcounts } from './repair-refcounts.ts';
import { KNOWN_AUTOCLEAR, writeU64 } from './write-field.ts';

/** What a repair did. */
export interface RepairReport {
  readonly before: CheckReport;
  /** `before` itself when nothing was to be done. */
  readonly after: CheckReport;
  /** All that was wrong is repaired; leaks may be left where only corruptions were looked for. */
  readonly isConsistent: boolean;
  /** As it is in the file now. */
  readonly header: Qcow2Header;
}

const FLAGS: readonly FindingKind[] = ['l1-copied', 'l2-copied', 'compressed-copied'];
const REPAIRABLE: ReadonlySet<string> = new Set<FindingKind>([
  ...FLAGS,
  'leak',
  'refcount-too-low',
  'refcount-table-reserved',
  'refcount-block-unaligned',
  'refcount-block-past-end',
  'refcount-block-shared',
  'unreadable-refcounts',
]);
const LEAKS_ONLY: ReadonlySet<string> = new Set<FindingKind>([...FLAGS, 'leak']);

/**
 * Repairs the image as far as it can be done. `leaks` frees what nothing refers to and lets COPIED
 * say what refcounts do, in an image that has no corruptions besides flags; compressed clusters
 * keep a COPIED that they must not have, as with qemu-img. `all` puts that and corrupt refcounts
 * right as well.
 * Rejects when the file cannot be read or written; then it can be repaired again.
 */
export async function repairImage(
  file: ImageFile,
  header: Qcow2Header,
  what: 'leaks' | 'all',
): Promise<RepairReport> {
  const scan = new Scan(header, file.sizeBytes);
  const before = await readFrom(file, check(scan));
  const isRepairable = canRepair(before);
  if (what === 'leaks' && !hasOnly(before, LEAKS_ONLY)) {
    return { before, after: before, isConsistent: false, header };
  }
  const isClean = Object.keys(before.counts).length === 0;
  if (isClean) return finish(file, header, { before, after: before, isConsistent: true });
  const opened = await clearUnknownAutoclear(file, header);
  const repaired = await repair(file, opened, scan, { what, mayLower: isRepairable });
  const after = await readFrom(file, check(new Scan(repaired, file.sizeBytes)));
  const isConsistent = isRepairable && after.corruptions + after.checkErrors === 0;
  return finish(file, repaired, { before, after, isConsistent });
}

/**
 * Repairs an image with the dirty mark, as whoever changes it must do; `notice` is told. Others are
 * left as they are. The header is as it is then.
 * @throws SluiceError ERR_SLUICE_CORRUPT when it cannot be repaired
 */
export async function repairDirty(
  file: ImageFile,
  found: Qcow2Header,
  path: string,
  notice?: (text: string) => unknown,
): Promise<Qcow2Header> {
  if (!found.dirty) return found;
  const { before, after, header, isConsistent } = await repairImage(file, found, 'all');
  if (!isConsistent) throw notRepaired(path, after);
  const { leaks, corruptions } = before;
  const mended = `${leaks} leaked clusters, ${corruptions} wrong refcounts or flags`;
  await notice?.(`it was not closed; it was checked and repaired: ${mended}`);
  return header;
}

function notRepaired(path: string, after: CheckReport): SluiceError {
  const found = `${after.corruptions} corruptions are left`;
  const first = after.findings[0] === undefined ? '' : `, first: ${after.findings[0]}`;
  const advice = 'open it read-only, or restore it from a backup';
  const what = `cannot repair ${JSON.stringify(path)} after an unclean shutdown`;
  const message = `${what}: ${found}${first}; ${advice}`;
  return new SluiceError('ERR_SLUICE_CORRUPT', message, { operation: 'open', path });
}

/** Nothing was found that a repair would leave as it is. */
export function canRepair(report: CheckReport): boolean {
  return hasOnly(report, REPAIRABLE);
}

function hasOnly({ counts }: CheckReport, kinds: ReadonlySet<string>): boolean {
  return Object.keys(counts).every((kind) => kinds.has(kind));
}

/** What may be changed. */
interface Scope {
  readonly what: 'leaks' | 'all';
  /** R2. */
  readonly mayLower: boolean;
}

/** R1: raise, flags, lower; or everything anew and then the flags. */
async function repair(
  file: ImageFile,
  header: Qcow2Header,
  scan: Scan,
  { what, mayLower }: Scope,
): Promise<Qcow2Header> {
  const { counts } = scan;
  const target = (cluster: number): number => {
    const references = counts.references[cluster] as number;
    return mayLower ? references : Math.max(counts.refcounts[cluster] as number, references);
  };
  if (!canSetInPlace(scan, target)) return rebuild(file, header, scan, { what, mayLower });
  await setRefcounts(file, scan, target, (refcount, wanted) => wanted > refcount);
  await file.sync();
  await fixCopied(file, scan, target, what);
  await file.sync();
  await setRefcounts(file, scan, target, (refcount, wanted) => wanted < refcount);
  await file.sync();
  return header;
}

/**
 * What held the refcounts until now counts no longer, and what it says may be anything: so where
 * refcounts must not be lowered, every cluster is kept.
 */
async function rebuild(
  file: ImageFile,
  header: Qcow2Header,
  checked: Scan,
  { what, mayLower }: Scope,
): Promise<Qcow2Header> {
  if (checked.findings.counts['past-end'] !== undefined) return header;
  const scan = new Scan(header, file.sizeBytes);
  await readFrom(file, countReferences(scan));
  const { counts } = scan;
  const target = (cluster: number): number => {
    if (cluster >= counts.usedClusters) return 0;
    return Math.max(counts.references[cluster] as number, mayLower ? 0 : 1);
  };
  const rebuilt = await rebuildRefcounts(file, scan, target);
  await fixCopied(file, scan, target, what);
  await file.sync();
  return rebuilt;
}

/** Features that we do not know of may describe clusters that nothing else refers to. */
async function clearUnknownAutoclear(file: ImageFile, header: Qcow2Header): Promise<Qcow2Header> {
  const autoclear = header.autoclear & KNOWN_AUTOCLEAR;
  if (autoclear === header.autoclear) return header;
  await writeU64(file, HEADER_AUTOCLEAR_FEATURES, autoclear);
  return { ...header, autoclear };
}

/** R4. */
async function finish(
  file: ImageFile,
  header: Qcow2Header,
  report: Omit<RepairReport, 'header'>,
): Promise<RepairReport> {
  if (!report.isConsistent || !(header.dirty || header.corrupt)) return { ...report, header };
  const marks = (1n << BigInt(INCOMPATIBLE_DIRTY_BIT)) | (1n << BigInt(INCOMPATIBLE_CORRUPT_BIT));
  const incompatible = header.incompatible & ~marks;
  await file.sync();
  await writeU64(file, HEADER_INCOMPATIBLE_FEATURES, incompatible);
  return { ...report, header: { ...header, incompatible, dirty: false, corrupt: false } };
}
