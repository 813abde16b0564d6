/**
 * What comes before a change of an image that no engine has open: it is refused, or put in order.
 *
 * P1 A damaged image is refused before anything is changed.
 * P2 One that was not closed is repaired first.
 * P3 Features that are only kept up to date by those who know them are taken back, and that is
 *    stable, before the first change that they could notice.
 */
import { HEADER_AUTOCLEAR_FEATURES } from '../../abi/qcow2.ts';
import { type ErrorCode, SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import { check, readFrom } from './check.ts';
import { Scan } from './check-scan.ts';
import { refuseDamagedLayout } from './header-layout.ts';
import { type Qcow2Header, readHeader } from './header.ts';
import { repairDirty } from './repair.ts';
import { KNOWN_AUTOCLEAR, writeU64 } from './write-field.ts';

/** How a change may be ended before its time, and where the image lies. */
export interface EditOptions {
  readonly isBlockDevice?: boolean;
  /** To how many entries the refcount table may grow, where an engine has it in memory. */
  readonly refcountTableEntriesMax?: number;
  /** Rejects with its reason when aborted, until the change is made. */
  readonly signal?: AbortSignal;
  /** Told how much of the work is done. */
  readonly onProgress?: (done: number, total: number) => unknown;
}

/** P1, P2: the header as it is then. `operation` is for the errors: `amend`, `bitmap`. */
export async function beginEdit(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  operation: string,
): Promise<Qcow2Header> {
  if (header.corrupt) {
    const advice = 'check and repair it first';
    throw refusal('ERR_SLUICE_CORRUPT', operation, path, 'it is marked corrupt', advice);
  }
  refuseDamagedLayout(header, { fileBytes: file.sizeBytes, path, writable: true });
  return repairDirty(file, header, path);
}

/** P3. */
export async function takeBackPromises(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
): Promise<Qcow2Header> {
  const autoclear = header.autoclear & KNOWN_AUTOCLEAR;
  if (autoclear === header.autoclear) return header;
  await writeU64(file, HEADER_AUTOCLEAR_FEATURES, autoclear);
  return readHeader(file, path);
}

/** A check of the whole image, which must find no corruption (P1). */
export async function checkSound(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  signal?: AbortSignal,
): Promise<Scan> {
  const scan = new Scan(header, file.sizeBytes);
  const report = await readFrom(file, check(scan), signal);
  if (report.corruptions + report.checkErrors === 0) return scan;
  const found = `it is damaged: ${report.findings[0] ?? 'its refcounts cannot be read'}`;
  throw refusal('ERR_SLUICE_CORRUPT', 'amend', path, found, 'check and repair it first');
}

/** The error for what cannot be done with an image. */
export function refusal(
  code: ErrorCode,
  operation: string,
  path: string,
  found: string,
  advice: string,
): SluiceError {
  const message = `cannot change ${JSON.stringify(path)}: ${found}; ${advice}`;
  return new SluiceError(code, message, { operation, path });
}
