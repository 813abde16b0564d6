/**
 * The inputs that are kept, as lines of text (input.ts), `#` before what is said about them:
 *
 *     corpus.txt    the smallest set found that reaches all that the fuzzer has ever reached
 *     bugs.txt      inputs that once failed
 *     mutants.txt   inputs on which an engine with a promise broken (scripts/mutants) is found out
 *
 * and the same of guest programs (guest/input.ts), guest.txt and guest-bugs.txt, and of programs
 * for a qcow2 image (qcow2/input.ts), qcow2.txt and qcow2-bugs.txt.
 */

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ROOT } from '../../bench/root.ts';
import { fromLine, toLine } from './input.ts';

/** Where they are. */
export const CORPUS_FOLDER = join(ROOT, 'test/corpus/fuzz');
/** The name of the set. */
export const CORPUS_FILE = 'corpus.txt';
/** The name of the inputs that failed. */
export const BUGS_FILE = 'bugs.txt';
/** The name of the inputs that find mutants out. */
export const MUTANTS_FILE = 'mutants.txt';

const HEADER = `# Inputs of the fuzzer (test/fuzz): one a line, the setup, then the actions.
# Written by \`npm run fuzz -- --minimize\`.
`;

/** The inputs of a file; none when it does not exist. */
export function loadInputs(file: string): Uint8Array[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, 'utf8').split('\n');
  return lines.filter((line) => line !== '' && !line.startsWith('#')).map((line) => fromLine(line));
}

/** Writes inputs in the order of their text. */
export function saveInputs(file: string, inputs: readonly Uint8Array[]): void {
  const lines = [...new Set(inputs.map((bytes) => toLine(bytes)))];
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${HEADER}${lines.sort().join('\n')}\n`);
}

/** A short name that depends on the input only. */
export function nameOf(bytes: Uint8Array): string {
  let hash = 0x811c9dc5;
  for (const code of Buffer.from(toLine(bytes))) hash = Math.imul(hash ^ code, 0x01000193) >>> 0;
  return hash.toString(16).padStart(8, '0');
}
