/** docs/virtio.md: every test that its list of rules names is there, once, under that title. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ROOT } from '../../bench/root.ts';

const CHAPTER = '## Rules of the standard and their tests';
const COLUMNS = ['section', 'rule', 'test file', 'test title'] as const;
/** Rules do not get lost. */
const LEAST_ROWS = 188;
/** Sections of the list that have a rule each. */
const CHECKS = 13;
const MUSTS = 10;

interface Rule {
  readonly section: string;
  readonly rule: string;
  readonly file: string;
  readonly title: string;
}

/** The lines of a chapter, from its heading to the next one of that rank. */
function chapter(text: string, heading: string): string[] {
  const lines = text.split('\n');
  const from = lines.indexOf(heading) + 1;
  const to = lines.findIndex((line, index) => index >= from && line.startsWith('## '));
  return lines.slice(from, to);
}

/** The rows of the tables that have these columns. */
function rulesOf(lines: readonly string[]): Rule[] {
  const rules: Rule[] = [];
  let isTable = false;
  for (const line of lines) {
    const cells = line.split(/^\| | \| | \|$/).slice(1, -1);
    if (cells.join() === COLUMNS.join()) isTable = true;
    else if (cells.length === 0 && !line.startsWith('|-')) isTable = false;
    else if (isTable && cells.length > 0) rules.push(toRule(cells));
  }
  return rules;
}

function toRule(cells: readonly string[]): Rule {
  expect(cells).toHaveLength(COLUMNS.length);
  const [section = '', rule = '', file = '', title = ''] = cells;
  return { section, rule, file, title };
}

const RULES = rulesOf(chapter(readFileSync(join(ROOT, 'docs/virtio.md'), 'utf8'), CHAPTER));

/** How often a test file has a string that is the title, or, in a template, has it in it. */
function occurrences({ file, title }: Rule): number {
  const text = readFileSync(join(ROOT, file), 'utf8');
  return (
    text.split(`'${title}'`).length +
    text.split(`"${title}"`).length +
    text.split(new RegExp(`\`[^\`\\n]*${escaped(title)}\``)).length -
    3
  );
}

function escaped(text: string): string {
  return text.replaceAll(/[\\^$.*+?()[\]{}|]/g, String.raw`\$&`);
}

describe('the rules of docs/virtio.md', () => {
  it('are as many as they were', () => {
    expect(RULES.length).toBeGreaterThanOrEqual(LEAST_ROWS);
  });

  it('have a section and words each, and no rule stands there twice', () => {
    for (const { section, rule } of RULES) {
      expect(section).toMatch(/^[1-6](\.\d+)*$/);
      expect(rule).not.toBe('');
    }
    const keys = RULES.map(({ section, rule, title }) => `${section} ${rule} ${title}`);
    expect(new Set(keys).size).toBe(keys.length);
  });

  it('reach from the status to the requests, and leave no check and no MUST out', () => {
    const sections = new Set(RULES.map(({ section }) => section));
    const numbered = (prefix: string, count: number): string[] =>
      Array.from({ length: count }, (_, index) => `${prefix}.${index + 1}`);
    const lists = [...numbered('3.1', CHECKS), ...numbered('6.4', MUSTS)];
    const parts = ['1', '2', '3', '4', '5', '6.1', '6.2', '6.3', '6.5', '6.6'];
    expect([...parts, ...lists].filter((section) => !sections.has(section))).toEqual([]);
  });

  it('name tests that are there, once in their file', () => {
    const missing = RULES.filter(({ file }) => !existsSync(join(ROOT, file)));
    expect(missing).toEqual([]);
    expect(RULES.filter((rule) => occurrences(rule) !== 1)).toEqual([]);
  });
});
