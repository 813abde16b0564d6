import { cpus } from 'node:os';
import { writeFileSync } from 'node:fs';
import type { Budget, PeerResult, RowResult } from './measure.ts';

const COLUMNS = [22, 25, 8, 8, 8, 9, 11] as const;
const HEADINGS = ['row', 'peer', 'per', 'ours ns', 'peer ns', 'ours/peer', 'min-max'];

/** The headings of `formatRow`. Times are nanoseconds for one of `per`. */
export function formatHeadings(): string {
  return `${pad(HEADINGS)}  hash`;
}

/** One line for each peer, or one for us when nobody came. Ratio: our time by the peer's. */
export function formatRow(row: RowResult): string[] {
  const ours = format(row.ours.nanoseconds);
  const hash = row.hash.toString(16).padStart(8, '0');
  if (row.peers.length === 0) {
    return [`${pad([row.name, '-', row.unit, ours, '-', '-', '-'])}  ${hash}`];
  }
  return row.peers.map((peer) => {
    const cells = [row.name, peer.name, row.unit, ours, format(peer.nanoseconds)];
    return `${pad([...cells, format(peer.ratio), spread(peer)])}  ${hash}`;
  });
}

/** Writes everything that was measured, and where, as JSON. */
export function writeJson(
  file: string,
  rows: readonly RowResult[],
  budget: Budget,
  notes: readonly string[],
): void {
  const machine = { cpu: cpus()[0]?.model ?? 'unknown', node: process.version, arch: process.arch };
  writeFileSync(file, `${JSON.stringify({ machine, budget, notes, rows }, undefined, 2)}\n`);
}

function spread(peer: PeerResult): string {
  return `${format(peer.ratioLow)}-${format(peer.ratioHigh)}`;
}

/** Three digits, as long as there are not more before the point. */
function format(value: number): string {
  if (value >= 100) return value.toFixed(0);
  return value.toFixed(value >= 10 ? 1 : 2);
}

/** Names to the left, numbers to the right. */
function pad(cells: readonly string[]): string {
  const padded = cells.map((cell, i) => {
    const width = COLUMNS[i] ?? 0;
    return i < 3 ? cell.padEnd(width) : cell.padStart(width);
  });
  return padded.join(' ');
}
