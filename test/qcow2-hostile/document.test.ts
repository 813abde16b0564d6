/** docs/qcow2-hostile.md says what the tests of this folder show. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

import { BAD_INPUTS } from '../image/bad-inputs/rows.ts';
import { summaryOf } from './expected.ts';
import { expectedOf } from './expected-rows.ts';

const DOCUMENT = readFileSync(new URL('../../docs/qcow2-hostile.md', import.meta.url), 'utf8');

describe('the table of damaged images in the documents', () => {
  it('has a line for each, which says what is done', () => {
    const lines = DOCUMENT.split('\n').filter((line) => line.startsWith('| Q'));
    const cells = lines.map((line) => line.split(' | ').slice(0, 3).join(' | '));
    const expected = BAD_INPUTS.map((row) => {
      return `| ${row.id} | ${row.title} | ${summaryOf(expectedOf(row))}`;
    });
    expect(cells).toEqual(expected);
  });
});
