/** Tables of docs/nbd.md: what a cell says, the work that shows it, and the lines they make. */

import { readFileSync } from 'node:fs';
import { it } from 'vitest';
import type { Peer } from '../../../scripts/peers.mjs';
import { describeWithPeers } from '../../support/peers.ts';

/** What a cell says of a program and a feature, and what is done to show it. */
export interface Cell<T> {
  readonly text: string;
  readonly run?: Work<T>;
}

/** Fails when what the cell says is not so. */
export type Work<T> = (at: T) => Promise<void>;

/** A program, and a cell for each feature. */
export interface Column<T, Feature extends string> {
  readonly name: string;
  /** What its cells need. */
  readonly peers: readonly Peer[];
  readonly cells: Readonly<Record<Feature, Cell<T>>>;
}

/** The program has nothing to do with the feature. */
export const NOT_APPLICABLE: Cell<unknown> = { text: '–' };

/** It works. */
export function yes<T>(run: Work<T>): Cell<T> {
  return { text: 'yes', run };
}

/** It does not, and the work shows that. */
export function no<T>(why: string, run: Work<T>): Cell<T> {
  return { text: `no: ${why}`, run };
}

/** Runs every cell that says something; a program that is not there is a suite that is skipped. */
export function runColumns<T, Feature extends string>(
  columns: readonly Column<T, Feature>[],
  place: () => T,
): void {
  for (const { name, peers, cells } of columns) {
    const rows = Object.entries<Cell<T>>(cells).flatMap(([feature, { text, run }]) =>
      run === undefined ? [] : [[feature, text, run] as const],
    );
    describeWithPeers(peers, name, () => {
      it.each(rows)('%s: %s', (_feature, _text, run) => run(place()));
    });
  }
}

/** The table as it stands in the document. */
export function linesOf<Feature extends string>(
  features: readonly Feature[],
  columns: readonly Column<never, Feature>[],
): string[] {
  const head = ['feature', ...columns.map(({ name }) => name)];
  const rows = features.map((feature) => [
    feature,
    ...columns.map(({ cells }) => cells[feature].text),
  ]);
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), `|${'---|'.repeat(head.length)}`, ...rows.map((cells) => line(cells))];
}

const DOCUMENT = readFileSync(new URL('../../../docs/nbd.md', import.meta.url), 'utf8');

/** The lines of the table in a chapter of docs/nbd.md. */
export function tableOf(heading: string): string[] {
  const lines = DOCUMENT.split('\n');
  const start = lines.indexOf(`## ${heading}`);
  if (start < 0) throw new Error(`docs/nbd.md has no chapter "${heading}"`);
  const end = lines.findIndex((line, index) => index > start && line.startsWith('## '));
  const chapter = lines.slice(start, end < 0 ? undefined : end);
  return chapter.filter((line) => line.startsWith('|'));
}
