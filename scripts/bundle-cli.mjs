// Bundles dist/cli in place: one file for the command line and one for each kind of thread. Node
// takes longer to find and read some 300 modules than `sluice` takes to copy a small disk.

import { readdir, rm, writeFile } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { rolldown } from 'rolldown';
import { ROOT } from './paths.mjs';

const FOLDER = join(ROOT, 'dist/cli');
/** What Node is told to run: by dist/bin.cjs, and as threads, by URLs beside the bundle. */
const ENTRIES = {
  main: 'dist/cli/main.js',
  'crash-worker': 'dist/cli/crash-worker.js',
  'codec-worker': 'dist/copy/codec-worker.js',
};

/** Replaces what is there. */
export async function bundleCli() {
  const bundle = await rolldown({
    cwd: ROOT,
    input: ENTRIES,
    platform: 'node',
    // Packages, and Node's own modules.
    external: (id) => !id.startsWith('.') && !isAbsolute(id),
  });
  const { output } = await bundle.generate({ format: 'esm', chunkFileNames: '[name]-[hash].js' });
  await bundle.close();
  for (const name of await readdir(FOLDER)) await rm(join(FOLDER, name), { recursive: true });
  for (const file of output) {
    if (file.type !== 'chunk') throw new Error(`${file.fileName} is no chunk`);
    await writeFile(join(FOLDER, file.fileName), file.code);
  }
}
