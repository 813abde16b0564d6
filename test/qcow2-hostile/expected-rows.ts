/** All that is expected, row by row. */
import { expect } from 'vitest';

import type { BadInput } from '../image/bad-inputs/rows.ts';
import type { Expected } from './expected.ts';
import { HEADER_ROWS } from './expected-header.ts';
import { TABLE_ROWS } from './expected-tables.ts';
import { CLUSTER_BYTES, CORRUPT_MASK, FEATURE_BYTE } from './places.ts';

const ROWS = { ...HEADER_ROWS, ...TABLE_ROWS };

/** What sluice does with the image of a row. */
export function expectedOf({ id }: BadInput): Expected {
  const expected = ROWS[id];
  if (expected === undefined) throw new Error(`nothing is said of ${id}`);
  return expected;
}

/**
 * Of the file's bytes only those have changed that the row allows a writer, who may also fill the
 * last cluster with zeroes.
 */
export function expectChanges(before: Buffer, after: Buffer, expected: Expected): void {
  const { refusal, marks = false, changes = [], grows = false } = expected;
  const whole = Math.ceil(before.length / CLUSTER_BYTES) * CLUSTER_BYTES;
  const isLonger = refusal === undefined && (grows || after.length === whole);
  const wanted = Buffer.alloc(isLonger ? Math.max(after.length, before.length) : before.length);
  before.copy(wanted);
  if (marks) wanted[FEATURE_BYTE] = (wanted[FEATURE_BYTE] ?? 0) | CORRUPT_MASK;
  for (const [start, end] of changes) {
    after.copy(wanted, start, start, Math.min(end, wanted.length));
  }
  expect(after.length).toBe(wanted.length);
  const at = after.findIndex((byte, index) => byte !== wanted[index]);
  expect(at, 'the first byte that has changed').toBe(-1);
}
