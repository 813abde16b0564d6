/**
 * Options of callers. Each has its check in a table, which the compiler keeps complete: neither a
 * misspelt name nor a value of another type is passed over in silence.
 */
import { invalid, show, toNumber, toSwitch, toWhole } from './arguments.ts';
import type { ByteCount } from './disk-types.ts';

/** Throws ERR_SLUICE_INVALID_ARGUMENT for a value that the option `name` cannot have. */
export type Check = (value: unknown, name: string) => void;

/** The check of every option. */
export type Checks<Options> = { readonly [Name in keyof Options]-?: Check };

type Table = Readonly<Record<string, Check>>;

/**
 * Refuses names that are not in the table, and values that its checks refuse. What is undefined is
 * left out, unless it is `required`.
 */
export function checkOptions(options: unknown, table: Table, whose: string): void {
  checkMembers(options, table, {
    whose,
    what: `the options of ${whose}`,
    prefix: '',
    required: [],
  });
}

/** An object with options of its own. */
export function objectOf(table: Table, required: readonly string[] = []): Check {
  return (value, name) =>
    checkMembers(value, table, { whose: name, what: name, prefix: `${name}.`, required });
}

/** The options of a table, out of those of another one that has more. */
export function pick<Options extends object, Name extends keyof Options & string>(
  options: Options,
  table: Readonly<Record<Name, Check>>,
): Pick<Options, Name> {
  const entries = Object.entries(options).filter(([name]) => Object.hasOwn(table, name));
  return Object.fromEntries(entries) as Pick<Options, Name>;
}

/** How an object and its members are called. */
interface Naming {
  readonly whose: string;
  readonly what: string;
  readonly prefix: string;
  readonly required: readonly string[];
}

function checkMembers(value: unknown, table: Table, naming: Naming): void {
  const { whose, what, prefix, required } = naming;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    // It may be a passphrase.
    const found = typeof value === 'string' ? 'a string' : show(value);
    throw invalid(`${what} must be an object, not ${found}`);
  }
  const members = value as Readonly<Record<string, unknown>>;
  for (const name of Object.keys(members)) {
    if (members[name] === undefined || Object.hasOwn(table, name)) continue;
    throw invalid(`${whose} has no option '${name}'; ${adviceFor(name, Object.keys(table))}`);
  }
  for (const [name, check] of Object.entries(table)) {
    const member = members[name];
    if (member !== undefined || required.includes(name)) check(member, prefix + name);
  }
}

/** Whoever uses the option checks its value, and says more of it. */
export const checkedInUse: Check = () => undefined;

export const isText: Check = (value, name) => {
  if (typeof value !== 'string') throw invalid(`${name} must be a string, not ${show(value)}`);
};

/** One path, or several. */
export function toPaths(path: string | readonly string[]): readonly string[] {
  const paths = typeof path === 'object' && Array.isArray(path) ? path : [path];
  for (const one of paths) isText(one, 'path');
  return paths as readonly string[];
}

export const isSwitch: Check = (value, name) => void toSwitch(value as boolean, name);

export const isByteCount: Check = (value, name) => void toNumber(value as ByteCount, name);

export const isCallback: Check = (value, name) => {
  if (typeof value !== 'function') throw invalid(`${name} must be a function, not ${show(value)}`);
};

/** Signals of other realms are no instances of this one's class. */
export const isSignal: Check = (value, name) => {
  if (typeof value === 'object' && value !== null && 'aborted' in value) return;
  throw invalid(`${name} must be an AbortSignal, not ${show(value)}`);
};

export function isWhole(from: number, to = Number.MAX_SAFE_INTEGER): Check {
  return (value, name) => void toWhole(value as number, name, from, to);
}

export function isOneOf(...known: readonly string[]): Check {
  return (value, name) => {
    if (known.includes(value as string)) return;
    const list = known.map((word) => `'${word}'`).join(' or ');
    throw invalid(`${name} must be ${list}, not ${show(value)}`);
  };
}

/** More wrong letters make another word. */
const LETTERS_WRONG = 0.5;

function adviceFor(name: string, known: readonly string[]): string {
  const ranked = known
    .map((word) => ({ word, distance: distanceOf(name.toLowerCase(), word.toLowerCase()) }))
    .sort((one, other) => one.distance - other.distance);
  const [nearest] = ranked;
  if (nearest === undefined) return 'it has none';
  if (nearest.distance <= name.length * LETTERS_WRONG) return `did you mean '${nearest.word}'?`;
  return `there are ${known.join(', ')}`;
}

/** Letters that are inserted, deleted or replaced between two words (Levenshtein). */
function distanceOf(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, index) => index);
  for (const [index, letter] of Array.from(one).entries()) {
    const next = [index + 1];
    for (const [at, wanted] of Array.from(other).entries()) {
      const replaced = (row[at] ?? 0) + Number(letter !== wanted);
      next.push(Math.min(replaced, (row[at + 1] ?? 0) + 1, (next[at] ?? 0) + 1));
    }
    row = next;
  }
  return row.at(-1) ?? 0;
}
