import { readdirSync, readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { tidy } from './support/tidy.ts';
import type { Source } from './support/tidy-syntax.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const GENERATED = new Set([
  '.git',
  'build',
  'coverage',
  'data',
  'dist',
  'node_modules',
  'engine-wasm.ts',
]);
const TEXT = /\.(ts|cts|mjs|json|md|py|c|yml)$|^\.ci\/run$/;

/** The text files of the checkout that people write. */
function checkout(folder = ROOT): Source[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => !GENERATED.has(entry.name))
    .flatMap((entry) => {
      const file = join(folder, entry.name);
      if (entry.isDirectory()) return checkout(file);
      const path = relative(ROOT, file).split(sep).join('/');
      return TEXT.test(path) ? [{ path, text: readFileSync(file, 'utf8') }] : [];
    });
}

/** A call of the one place that may sync, so that snippets in src break no other rule. */
const SYNC = '\nfdatasync(fd, done);\n';
const lines = (count: number): string => '\n'.repeat(count);
const later = ['TO', 'DO'].join('');
const broken = ['FIX', 'ME'].join('');
const machinePath = ['', 'home', 'someone', 'x'].join('/');

/** [path, the line and rule that must be found, what is wrong there]. */
const BROKEN: readonly [path: string, finding: string, text: string][] = [
  ['src/a.ts', '1: a line has at most 100 columns', `// ${'x'.repeat(98)}${SYNC}`],
  ['scripts/a.mjs', '1: a line has at most 100 columns', `// ${'x'.repeat(98)}`],
  ['assembly/a.ts', '1: a function has at most 70 lines', `function f(): void {${lines(70)}}`],
  ['test/a.ts', '1: a function has at most 70 lines', `it('x', () => {${lines(70)}});`],
  ['src/a.ts', 'a file has fewer than 400 lines', `${lines(400)}${SYNC}`],

  ['src/abi/a.ts', '1: src/abi holds only', `export const A = 'text';`],
  ['src/abi/a.ts', '1: src/abi holds only', `export const A: number = 1;`],
  ['src/abi/a.ts', '1: src/abi holds only', `export let A = 1;`],
  ['src/abi/a.ts', '1: src/abi holds only', `const A = 1;`],
  ['src/abi/a.ts', '1: src/abi holds only', `export const lower = 1;`],
  ['src/abi/a.ts', '1: src/abi holds only', `export const A = f(1);`],
  ['src/abi/a.ts', '1: src/abi holds only', `export type A = 1;`],
  ['src/abi/a.ts', '1: must not import src/abi/b.ts', `import { B } from './b.ts';`],

  ['src/a.ts', '1: must not import assembly/a.ts', `import '../assembly/a.ts';`],
  ['src/engine.ts', '1: must not import assembly/a.ts', `import '../assembly/a.ts';`],
  ['src/a.ts', '1: must not import assembly/a.ts', `export * from '../assembly/a.ts';`],
  ['src/a.ts', '1: must not import assembly/a.ts', `await import('../assembly/a.ts');`],
  ['src/a.ts', '1: must not import @assemblyscript/loader', `import '@assemblyscript/loader';`],
  ['src/backend/a.ts', '1: must not import src/engine.ts', `import '../engine.ts';`],
  ['src/backend/a.ts', '1: must not import commander', `import 'commander';`],
  ['assembly/ring/a.ts', '1: must not import assembly/map/slot.ts', `import '../map/slot.ts';`],
  ['assembly/map/a.ts', '1: must not import assembly/ring/a.ts', `import '../ring/a.ts';`],
  ['assembly/map/a.ts', '1: must not import assembly/pump.ts', `import '../pump.ts';`],
  ['assembly/simd/a.ts', '1: must not import assembly/map/slot.ts', `import '../map/slot.ts';`],
  ['assembly/memory.ts', '1: must not import assembly/map/slot.ts', `import './map/slot.ts';`],
  ['assembly/new/a.ts', '1: must not import assembly/memory.ts', `import '../memory.ts';`],
  ['assembly/map/a.ts', '1: must not import src/a.ts', `import '../../src/a.ts';`],

  ['src/a.ts', '1: O_* flags stand in', `open(path, constants.O_DIRECT);`],
  ['src/a.ts', '2: O_* flags stand in', `\nconst { O_DSYNC } = constants;`],
  ['src/a.ts', '1: fdatasync is called in one place in src, not 2', `fdatasync(1, f);${SYNC}`],
  [
    'src/a.ts',
    '1: fdatasync is called in one place in src, not 2',
    `await file.datasync();${SYNC}`,
  ],
  ['src/a.ts', '1: fdatasync is called in one place in src, not 2', `promisify(fdatasync);${SYNC}`],
  ['src/a.ts', '1: fdatasync is called in one place in src', `c('int fdatasync(int)');${SYNC}`],
  ['src/a.ts', 'fdatasync is called in one place in src, not 0', `f();`],
  ['src/a.ts', 'fdatasync is called in one place in src, not 0', `fdatasyncSync(1);`],
  [
    'src/a.ts',
    '1: fdatasyncSync is called in one place in src, beside fdatasync',
    `fdatasyncSync(1); fdatasyncSync(2);${SYNC}`,
  ],

  ['src/a.ts', '1: nothing is swallowed', `try { f(); } catch {}`],
  ['test/a.ts', '1: nothing is swallowed', `f().catch(() => {});`],
  ['src/a.ts', '2: nothing is left to do', `\n// ${later}: more`],
  ['assembly/a.ts', '1: nothing is left to do', `// ${broken}`],
  ['README.md', '1: a path of one machine', `see ${machinePath}`],
  ['src/a.ts', '1: a path of one machine', `open('${machinePath}');`],
  ['package-lock.json', '2: the lock file names no registry', `{\n"resolved": "x" }`],
  ['test/a.test.ts', '1: a skip gives its reason', `it.skip('x', f);`],
  ['test/a.test.ts', '1: a skip gives its reason', `describe.skipIf(a)('x', f);`],

  ['src/index.ts', '1: an exported name has a doc comment', `export function f(): void {}`],
  ['src/index.ts', '2: an exported name has a doc comment', `/* x */\nexport const a = 1;`],
];

/** [path, what must not be found fault with]. */
const RIGHT: readonly [path: string, text: string][] = [
  ['src/a.ts', `// ${'x'.repeat(97)}`],
  ['assembly/a.ts', `function f(): void {${lines(69)}}`],
  ['test/a.ts', `describe('x', () => {${lines(100)}});`],
  ['src/abi/a.ts', `/** x */\nexport const A = 1;\nexport const B = -(A + 2) * 3;`],
  ['src/engine.ts', `import '@assemblyscript/loader';\nimport './abi/a.ts';`],
  ['src/backend/a.ts', `import './b.ts';\nimport '../abi/a.ts';\nimport 'node:fs';`],
  ['src/backend/file-open.ts', `open(path, constants.O_DIRECT);`],
  ['src/a.ts', `throw new Error('O_DIRECT is refused'); // O_DIRECT`],
  ['assembly/pump.ts', `import './map/raw.ts';\nimport './schedule/flush.ts';`],
  ['assembly/map/a.ts', `import '../memory.ts';\nimport '../simd/a.ts';\nimport './b.ts';`],
  ['assembly/map/a.ts', `import '../request/slot.ts';\nimport '../../src/abi/a.ts';`],
  ['src/a.ts', `try { f(); } catch { g(); }\nh().catch(() => undefined);`],
  ['test/a.test.ts', `it('x', (context) => context.skip('no O_DIRECT'));`],
  ['src/index.ts', `/** x */\nexport function f(): void {}`],
];

describe('the checkout', () => {
  it('keeps every rule that tidy can check', () => {
    expect(tidy(checkout())).toEqual([]);
  });
});

describe('tidy', () => {
  it.each(BROKEN)('finds in %s, line %s', (path, finding, text) => {
    expect(tidy([{ path, text }])).toContainEqual(expect.stringContaining(finding));
  });

  it.each(RIGHT)('finds nothing wrong in %s (%#)', (path, text) => {
    const sync = { path: 'src/sync.ts', text: SYNC };
    expect(tidy([{ path, text }, sync])).toEqual([]);
  });

  it('follows an export to its declaration', () => {
    const sources = [
      { path: 'src/index.ts', text: `export { a, type B } from './a.ts';${SYNC}` },
      { path: 'src/a.ts', text: `/** x */\nexport const a = 1;\nexport * from './b.ts';` },
      { path: 'src/b.ts', text: `export interface B {}\nexport const unseen = 1;` },
    ];
    expect(tidy(sources)).toEqual(['src/b.ts:1: an exported name has a doc comment']);
  });
});
