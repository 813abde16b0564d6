// A program that does its work before the bench goes on.

import { spawnSync } from 'node:child_process';

/**
 * Runs it to its end; answers what it said.
 * @param {string} program
 * @param {string[]} args
 */
export function run(program, args) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${error?.message ?? stderr}`);
  return stdout;
}
