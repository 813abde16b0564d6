/** What of the engine's sources is reached: the numbers, and what is not. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../../bench/root.ts';
import { CORPUS_FOLDER, loadInputs } from './corpus.ts';
import { openCoverageBuild, type Point } from './points.ts';
import { SUBJECTS } from './subject.ts';

export { loadPoints } from './points.ts';

/** Points that may stay unreached (test/corpus/coverage-allowed.json). */
export interface Allowed {
  readonly file: string;
  readonly function: string;
  readonly kind: string;
  /** The source from the point to the end of its line. */
  readonly text: string;
  readonly reason: string;
}

/** A point that nothing has reached. */
export interface Unreached extends Point {
  readonly text: string;
  /** Why it may stay so, if it may. */
  readonly reason: string | undefined;
}

/** The numbers of one file. */
export interface Row {
  readonly file: string;
  readonly statements: number;
  readonly statementsReached: number;
  readonly branches: number;
  readonly branchesReached: number;
}

/** Everything that there is to say. */
export interface Report {
  readonly rows: readonly Row[];
  readonly total: Row;
  readonly unreached: readonly Unreached[];
  /** Entries of the list that name nothing unreached. */
  readonly stale: readonly Allowed[];
}

const ALLOWED_FILE = join(ROOT, 'test/corpus/coverage-allowed.json');

/** Arms of conditions, cases, operands and loops entered; functions are what is in them. */
export function isBranch({ kind }: Point): boolean {
  return kind !== 'statement' && kind !== 'function';
}

/** The list of what may stay unreached. */
export function loadAllowed(): Allowed[] {
  return JSON.parse(readFileSync(ALLOWED_FILE, 'utf8')) as Allowed[];
}

/** Which points the kept inputs reach: not 0 for those that they do. */
export function corpusReach(points: readonly Point[]): Uint8Array {
  const reached = new Uint8Array(points.length);
  for (const subject of SUBJECTS) {
    const build = openCoverageBuild(points, subject.createMemory());
    const runner = subject.createRunner(build.exports, build.memory);
    for (const bytes of loadInputs(join(CORPUS_FOLDER, subject.corpusFile))) {
      build.counters.fill(0);
      runner.run(bytes);
      addReach(reached, build.counters);
    }
  }
  return reached;
}

/** Adds what one run reached to what others did. */
export function addReach(reached: Uint8Array, run: Uint8Array): void {
  for (let point = 0; point < reached.length; point++) reached[point]! |= run[point]!;
}

/** What is reached and what is not; both lists in the order of the points. */
export function reportOf(
  points: readonly Point[],
  reached: Uint8Array,
  allowed: readonly Allowed[],
): Report {
  const files = [...new Set(points.map(({ file }) => file))].sort();
  const rowOf = (file: string, own: readonly (readonly [Point, number])[]): Row => {
    const branches = own.filter(([point]) => isBranch(point));
    const statements = own.filter(([{ kind }]) => kind === 'statement');
    return {
      file,
      statements: statements.length,
      statementsReached: statements.filter(([, count]) => count > 0).length,
      branches: branches.length,
      branchesReached: branches.filter(([, count]) => count > 0).length,
    };
  };
  const counted = points.map((point, index) => [point, reached[index] ?? 0] as const);
  const unreached = counted
    .filter(([, count]) => count === 0)
    .map(([point]) => describe(point, allowed));
  return {
    rows: files.map((file) =>
      rowOf(
        file,
        counted.filter(([point]) => point.file === file),
      ),
    ),
    total: rowOf('all', counted),
    unreached,
    stale: allowed.filter((entry) => !unreached.some((point) => isSame(point, entry))),
  };
}

const sources = new Map<string, string[]>();

function describe(point: Point, allowed: readonly Allowed[]): Unreached {
  const lines = sources.get(point.file) ?? readFileSync(join(ROOT, point.file), 'utf8').split('\n');
  sources.set(point.file, lines);
  const text = (lines[point.line - 1] ?? '').slice(point.column - 1).trim();
  const entry = allowed.find((one) => isSame({ ...point, text }, one));
  return { ...point, text, reason: entry?.reason };
}

/** Lines move; what stands there stays. */
function isSame(point: Point & { readonly text: string }, entry: Allowed): boolean {
  return (
    point.file === entry.file &&
    point.function === entry.function &&
    point.kind === entry.kind &&
    point.text === entry.text
  );
}

/** What keeps a report from being good: too few branches, or one that no list excuses. */
export function complaintsOf(report: Report, least: number): string[] {
  const { branches, branchesReached } = report.total;
  const complaints: string[] = [];
  if (branchesReached < least * branches) {
    complaints.push(`${branchesReached} of ${branches} branches are fewer than ${least * 100} %`);
  }
  for (const point of report.unreached) {
    if (point.reason !== undefined || !isBranch(point)) continue;
    const where = `${point.file}:${point.line}:${point.column}`;
    complaints.push(`${where} (${point.kind}) is not reached and not excused: ${point.text}`);
  }
  for (const { file, kind, text } of report.stale) {
    complaints.push(`${file} (${kind}) is excused and reached, or no more: ${text}`);
  }
  return complaints;
}
