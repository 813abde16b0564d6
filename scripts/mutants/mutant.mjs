// A mutant: the engine with one promise broken. Its edits are made while asc reads the sources, so
// that the sources know nothing of them and no other build contains them.

import { readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { main as asc } from 'assemblyscript/asc';
import { ROOT } from '../paths.mjs';

/**
 * @typedef {object} Edit
 * @property {string} file
 * @property {string} find stands exactly once in the file
 * @property {string} replace
 */

/**
 * @typedef {object} Mutant
 * @property {string} name the rule that it breaks, and how
 * @property {readonly Edit[]} edits
 * @property {boolean} explored the crash explorer must find it; else the engine's tests do
 * @property {string} tests the folder whose tests must kill it
 */

/**
 * A mutant that the engine's tests must kill.
 * @param {string} name
 * @param {string} file
 * @param {readonly { find: string, replace: string, file?: string }[]} edits
 * @returns {Mutant}
 */
export function mutant(name, file, ...edits) {
  const all = edits.map((edit) => Object.assign({ file }, edit));
  return { name, edits: all, explored: false, tests: 'test/engine' };
}

/**
 * A mutant that the tests of the rings must kill.
 * @param {string} name
 * @param {string} file
 * @param {readonly { find: string, replace: string, file?: string }[]} edits
 * @returns {Mutant}
 */
export function ringMutant(name, file, ...edits) {
  return { ...mutant(name, file, ...edits), tests: 'test/ring' };
}

/**
 * A mutant that the crash explorer must kill too.
 * @param {string} name
 * @param {string} file
 * @param {readonly { find: string, replace: string, file?: string }[]} edits
 * @returns {Mutant}
 */
export function explored(name, file, ...edits) {
  return { ...mutant(name, file, ...edits), explored: true };
}

/**
 * A mutant that the explorations of qcow2 must kill.
 * @param {string} name
 * @param {string} file
 * @param {readonly { find: string, replace: string, file?: string }[]} edits
 * @returns {Mutant}
 */
export function qcow2Mutant(name, file, ...edits) {
  return { ...mutant(name, file, ...edits), tests: 'test/testing/qcow2-engine' };
}

/**
 * The sources of a mutant that differ from the engine's, by file. Throws when an edit does not fit.
 * @param {Mutant} mutant
 */
export function mutate({ name, edits }) {
  /** @type {Map<string, string>} */
  const sources = new Map();
  for (const { file, find, replace } of edits) {
    const source = sources.get(file) ?? readFileSync(join(ROOT, file), 'utf8');
    const places = source.split(find).length - 1;
    if (places !== 1) {
      throw new Error(`mutant '${name}': ${file} has ${places} places, not 1, like\n${find}`);
    }
    sources.set(
      file,
      source.replace(find, () => replace),
    );
  }
  return sources;
}

/**
 * Compiles the engine with the sources of a mutant. The release build, so that tests kill the
 * mutant and not its own asserts; not optimized, which takes a third of the time.
 * @param {ReadonlyMap<string, string>} sources
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
export async function compileWith(sources) {
  /** @type {Uint8Array | undefined} */
  let binary;
  const target = ['--baseDir', ROOT, '--target', 'release', '--optimizeLevel', '0'];
  const files = new Map([...sources, ['asconfig.json', configWithoutText()]]);
  const { error } = await asc([...target, '--outFile', 'mutant.wasm'], {
    stderr: process.stderr,
    readFile: (name, base) => readSource(files, join(base, name)),
    writeFile: (name, contents) => {
      if (name === 'mutant.wasm' && typeof contents !== 'string') binary = contents;
    },
  });
  if (error !== null) throw new Error(`a mutant must compile: ${error.message}`);
  if (binary === undefined) throw new Error('asc has written no module');
  return Uint8Array.from(binary);
}

/** The configuration of asc, less the text of the module: nobody reads it, and it takes long. */
function configWithoutText() {
  const config = JSON.parse(readFileSync(join(ROOT, 'asconfig.json'), 'utf8'));
  delete config.targets.release.textFile;
  return JSON.stringify(config);
}

/**
 * @param {ReadonlyMap<string, string>} sources
 * @param {string} path
 */
function readSource(sources, path) {
  const changed = sources.get(relative(ROOT, path));
  if (changed !== undefined) return changed;
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    // asc looks for a module in several places.
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}
