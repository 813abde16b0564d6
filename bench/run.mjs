// npm run bench [-- --only TEXT --json FILE --rounds N --time MS --list]
//
// Compiles bench/*.ts and what it imports into build/bench/js and runs the program there.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

const compile = ['node_modules/typescript/bin/tsc', '-p', 'bench'];
const { status } = spawnSync(process.execPath, compile, { cwd: ROOT, stdio: 'inherit' });
if (status === 0) {
  const { main } = await import(new URL('../build/bench/js/bench/main.js', import.meta.url).href);
  await main(process.argv.slice(2));
} else {
  process.exitCode = 1;
}
