import { parseArgs } from 'node:util';
import { DEFAULT_BUDGET, runRow, type RowResult } from './measure.ts';
import { nativeNotes } from './native.ts';
import { formatHeadings, formatRow, writeJson } from './report.ts';
import { ROWS } from './rows/index.ts';

/** The bench program: prints a line for each row and peer, and writes JSON when asked to. */
export async function main(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      json: { type: 'string' },
      list: { type: 'boolean' },
      only: { type: 'string', default: '' },
      rounds: { type: 'string', default: String(DEFAULT_BUDGET.rounds) },
      time: { type: 'string', default: String(DEFAULT_BUDGET.timeMs) },
    },
  });
  const rows = ROWS.filter((row) => row.name.includes(values.only));
  if (values.list === true) {
    for (const row of rows) console.log(row.name);
    return;
  }
  const budget = {
    ...DEFAULT_BUDGET,
    rounds: positive('rounds', values.rounds),
    timeMs: positive('time', values.time),
  };
  console.log(formatHeadings());
  const results: RowResult[] = [];
  for (const row of rows) {
    const result = await runRow(row, budget);
    for (const line of formatRow(result)) console.log(line);
    results.push(result);
  }
  const notes = nativeNotes();
  for (const note of notes) console.log(note);
  if (values.json !== undefined) writeJson(values.json, results, budget, notes);
}

function positive(option: string, text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new RangeError(`--${option} takes a positive number, not ${text}`);
  return value;
}
