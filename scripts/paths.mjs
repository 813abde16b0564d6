// Where things are, and which of two things is newer.

import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The root of the checkout, with a trailing slash. */
export const ROOT = fileURLToPath(new URL('..', import.meta.url));

/**
 * The latest modification time below `path`, in milliseconds. Folders count, so that a removed
 * file is a change too.
 * @param {string} path
 * @returns {number}
 */
function newestMs(path) {
  const stat = statSync(path);
  if (!stat.isDirectory()) return stat.mtimeMs;
  return Math.max(stat.mtimeMs, ...readdirSync(path).map((name) => newestMs(join(path, name))));
}

/**
 * True when every output exists and none is older than any input. Paths are relative to the root;
 * a folder stands for everything in it.
 * @param {string[]} outputs
 * @param {string[]} inputs
 */
export function isFresh(outputs, inputs) {
  const files = outputs.map((name) => join(ROOT, name));
  if (!files.every((file) => existsSync(file))) return false;
  const oldestMs = Math.min(...files.map((file) => statSync(file).mtimeMs));
  return inputs.every((name) => newestMs(join(ROOT, name)) <= oldestMs);
}
