/** The table of hostile sequences in docs/nbd.md, and the tests whose titles its lines are. */

import type { RunnerTask, RunnerTestFile } from 'vitest';
import { tableOf } from './interop/cells.ts';

/** One line: its title is `ID SENT: ANSWER`. */
interface Row {
  readonly title: string;
  readonly file: string;
}

/** All lines, in their order. */
export function hostileRows(): Row[] {
  const lines = tableOf('Hostile clients').slice(2);
  return lines.map((line) => {
    const [id = '', sent = '', answer = '', file = ''] = line.split(/^\| | \| | \|$/).slice(1);
    return { title: `${id} ${sent}: ${answer}`, file };
  });
}

/** The titles of the lines that name a test file of this folder. */
export function rowsOf(file: string): string[] {
  const rows = hostileRows().filter((row) => row.file === `test/nbd/${file}`);
  return rows.map(({ title }) => title).toSorted();
}

/** The titles of the tests in a file that are of a sequence. */
export function sequencesOf(file: RunnerTestFile): string[] {
  return titlesOf(file.tasks)
    .filter((title) => /^N\d\d /.test(title))
    .toSorted();
}

function titlesOf(tasks: readonly RunnerTask[]): string[] {
  return tasks.flatMap((task) => (task.type === 'suite' ? titlesOf(task.tasks) : [task.name]));
}
