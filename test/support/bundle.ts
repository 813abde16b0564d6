/**
 * Runs TypeScript of the checkout in a Node process of its own, without a build: Node 20 cannot
 * strip types, so the script is bundled into a temporary folder first.
 */

import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const NODE_MODULES = fileURLToPath(new URL('../../node_modules', import.meta.url));

/** A bundled script; `remove` it after the tests. */
export interface Bundle {
  readonly file: string;
  remove(): Promise<void>;
}

/** Bundles a script and what it imports from the checkout; packages are found as usual. */
export async function bundle(entry: URL): Promise<Bundle> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-bundle-'));
  await symlink(NODE_MODULES, join(folder, 'node_modules'));
  const file = join(folder, 'script.mjs');
  const build = await rolldown({
    input: fileURLToPath(entry),
    platform: 'node',
    external: /^[^./]/,
    logLevel: 'silent',
  });
  await build.write({ file, format: 'esm', codeSplitting: false });
  await build.close();
  return { file, remove: () => rm(folder, { recursive: true, force: true }) };
}
