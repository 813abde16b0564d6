/** The checker and `qemu-img check` beside each other: what both count, and where they differ. */

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

import type { CheckReport } from '../../src/image/qcow2/check.ts';
import type { FindingKind } from '../../src/image/qcow2/check-findings.ts';

/** What we find and qemu-img 7.2 does not look for. */
const BEYOND_QEMU: readonly FindingKind[] = [
  'overlap', // only by the refcounts, and those may be raised
  'cut-off', // it reads zeroes past the end of the file
  'zero-version-2', // it finds that when the guest reads
  'zero-extended', // the bit is reserved there, and it does not look
  'data-file-offset', // it finds that when the guest reads
];

/** Where one of these was found, qemu-img may count otherwise. */
const COUNTED_OTHERWISE: readonly FindingKind[] = [
  'l1-no-table', // it takes the header for an L2 table
  'l1-unaligned', // it follows a table that begins inside a cluster
  'table-overlap', // it counts and walks such a table as well
  'bitmap-directory', // it ends the check, or looks at other rules
  'bitmap-entry', // it ends the check
  'snapshot-table', // it ends the check
  'unreadable-refcounts', // it counts an error for each cluster
];

/** What `qemu-img check --output json` says; its numbers are absent where they are 0. */
export interface QemuCheck {
  readonly corruptions?: number;
  readonly leaks?: number;
  readonly 'check-errors': number;
  readonly 'image-end-offset'?: number;
  readonly 'total-clusters'?: number;
  readonly 'allocated-clusters'?: number;
  readonly 'fragmented-clusters'?: number;
  readonly 'compressed-clusters'?: number;
}

/** What `qemu-img check` answers. */
export interface QemuAnswer {
  /** undefined: it gave up. */
  readonly json: QemuCheck | undefined;
  readonly text: string;
}

/** Checks an image of a folder; `isEncrypted`: with the key of check-images.ts. */
export async function qemuCheck(
  folder: string,
  name: string,
  isEncrypted = false,
): Promise<QemuAnswer> {
  const key = ['--object', 'secret,id=key,data=abc', '--image-opts'];
  const image = isEncrypted
    ? [...key, `driver=qcow2,file.filename=${name},encrypt.key-secret=key`]
    : ['-f', 'qcow2', name];
  const args = ['check', '--output', 'json', ...image];
  try {
    const { stdout, stderr } = await promisify(execFile)('qemu-img', args, { cwd: folder });
    return { json: JSON.parse(stdout) as QemuCheck, text: stderr };
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    const json = stdout === '' ? undefined : (JSON.parse(stdout) as QemuCheck);
    return { json, text: stderr };
  }
}

/** How the answers fit together. */
export type Verdict = 'same' | 'clean' | 'otherwise' | `differs: ${string}`;

/** Compares what both count; see the tables above. */
export function compare(report: CheckReport, { json, text }: QemuAnswer): Verdict {
  const { corruptions, leaks, checkErrors, counts } = report;
  const otherwise = COUNTED_OTHERWISE.some((kind) => counts[kind] !== undefined);
  const isClean = corruptions + leaks + checkErrors === 0;
  if (json === undefined) return isClean ? `differs: qemu-img gave up: ${text}` : 'otherwise';
  if (otherwise) return 'otherwise';
  const beyond = BEYOND_QEMU.reduce((sum, kind) => sum + (counts[kind] ?? 0), 0);
  const ours = `c${corruptions - beyond} l${leaks}`;
  const theirs = `c${json.corruptions ?? 0} l${json.leaks ?? 0}`;
  if (ours !== theirs) return `differs: ${ours}, qemu-img ${theirs}`;
  return isClean ? 'clean' : 'same';
}
