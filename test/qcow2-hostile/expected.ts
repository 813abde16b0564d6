/** What sluice does with each damaged image (image/bad-inputs/rows.ts). */
import type { ErrorCode } from '../../src/errors.ts';
import type { FindingKind } from '../../src/image/qcow2/check-findings.ts';

/** The end of a command: the byte that is read, `done`, or why it fails. */
export type Outcome = number | 'done' | 'EIO' | 'out of range';

/**
 * A command in the words of qemu-io, how it ends on a writable disk, and on a read-only one, where
 * that is not the same. A write fails there in any case.
 */
export type Step = readonly [command: string, outcome: Outcome, readOnly?: Outcome];

/** Bytes of the file: from, and up to before. */
export type Bytes = readonly [start: number, end: number];

/** Why an image is not opened. */
export interface Refusal {
  readonly code: ErrorCode;
  readonly message: RegExp;
}

/** What is expected of a row. Without a refusal it opens; with `reads`, for reading only. */
export interface Expected {
  readonly refusal?: Refusal;
  readonly reads?: boolean;
  readonly steps: readonly Step[];
  /** The writable run marks the image corrupt. Default: it does not. */
  readonly marks?: boolean;
  /** The bytes that a writable run may change, besides the mark. Default: none. */
  readonly changes?: readonly Bytes[];
  /** The file may get longer. */
  readonly grows?: boolean;
  /** What the check of the image reports. */
  readonly finds?: FindingKind;
  /** What a reader of the table should know besides. */
  readonly note?: string;
}

/** Neither readers nor writers open it. */
export function refused(code: ErrorCode, message: RegExp): Expected {
  return { refusal: { code, message }, steps: [] };
}

/** Writers do not open it; readers do. */
export function readersOnly(code: ErrorCode, message: RegExp, steps: readonly Step[]): Expected {
  return { refusal: { code, message }, reads: true, steps };
}

/** It opens. */
export function opens(steps: readonly Step[], more: Partial<Expected> = {}): Expected {
  return { ...more, steps };
}

/** It opens, and the first of these commands finds damage for which the image is marked. */
export function marked(finds: FindingKind, ...steps: readonly Step[]): Expected {
  return { steps, marks: true, finds };
}

/** The cell of docs/qcow2-hostile.md. */
export function summaryOf({ refusal, reads, steps, marks, note }: Expected): string {
  const parts = [
    ...(refusal === undefined ? [] : [`${reads ? 'writable: ' : ''}not opened, ${refusal.code}`]),
    ...(steps.length > 0 ? [`${reads ? 'read-only: ' : ''}${steps.map(stepText).join(', ')}`] : []),
    ...(marks ? ['marked corrupt, no more writes'] : []),
    ...(note === undefined ? [] : [note]),
  ];
  return parts.join('; ');
}

function stepText([command, outcome]: Step): string {
  return `\`${command}\` ${typeof outcome === 'number' ? hex(outcome) : outcome}`;
}

function hex(byte: number): string {
  return `0x${byte.toString(16).padStart(2, '0')}`;
}
