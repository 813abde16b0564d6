/** The package as its users get it: packed, installed into an empty folder, and loaded. */

import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import packageJson from '../package.json' with { type: 'json' };
import { PROGRAM_TIMEOUT_MS } from './support/peers.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const run = promisify(execFile);

const folder = mkdtempSync(join(tmpdir(), 'sluice-package-'));
let tarball: string;
let packedFiles: string[];

/** Packs what was built; the tarball lands in `folder`. */
async function pack(): Promise<void> {
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', folder];
  const { stdout } = await run('npm', args, { cwd: ROOT });
  // npm 12 answers with an object by name where older ones have a list.
  const packed = Object.values(JSON.parse(stdout) as object)[0] as {
    filename: string;
    files: { path: string }[];
  };
  tarball = join(folder, packed.filename);
  packedFiles = packed.files.map(({ path }) => path);
}

/** Installs the tarball as a user would; dependencies come from npm's cache where they can. */
async function install(): Promise<void> {
  writeFileSync(join(folder, 'package.json'), '{ "private": true }');
  const options = ['--prefix', folder, '--prefer-offline', '--no-audit', '--ignore-scripts'];
  await run('npm', ['install', ...options, tarball], { cwd: folder });
}

/** What a program prints that runs beside the installed package. */
async function evaluate(type: 'module' | 'commonjs', code: string): Promise<unknown> {
  const args = [`--input-type=${type}`, '--eval', code];
  const { stdout } = await run(process.execPath, args, { cwd: folder });
  return JSON.parse(stdout);
}

beforeAll(async () => {
  await pack();
  await install();
}, PROGRAM_TIMEOUT_MS);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('the packed package', { timeout: PROGRAM_TIMEOUT_MS }, () => {
  it('holds what was built and the documents, no sources and no tests', () => {
    const built = /^dist\/[\w./-]+\.(js|cjs|d\.ts|d\.cts|map|wasm)$/;
    const documents = /^(package\.json|LICENSE|README\.md|CHANGELOG\.md)$/;
    const others = packedFiles.filter((file) => !built.test(file) && !documents.test(file));
    expect(others).toEqual([]);
  });

  it('holds every file that package.json names', () => {
    const { bin, exports } = packageJson;
    const named = [...Object.values(bin), ...Object.values(exports).flatMap(filesOf)];
    const missing = named
      .map((file) => file.replace('./', ''))
      .filter((file) => !packedFiles.includes(file));
    expect(missing).toEqual([]);
  });

  it('has nothing for publint to say', async () => {
    const bytes = Uint8Array.from(readFileSync(tarball)).buffer;
    const { messages } = await publint({ pack: { tarball: bytes }, strict: true });
    const texts = messages.map((message) => formatMessage(message, packageJson, { color: false }));
    expect(texts).toEqual([]);
  });

  it('resolves to the right types in every module mode (attw)', async () => {
    const attw = join(ROOT, 'node_modules/.bin/attw');
    const wasm = ['./engine.wasm', './engine.shared.wasm'];
    const options = ['--profile', 'esm-only', '--no-definitely-typed', '--format', 'ascii'];
    const args = [tarball, ...options, '--exclude-entrypoints', ...wasm];
    // attw exits with 1 when it finds a problem, and what it prints is the error's stdout.
    const report = await run(attw, args).then(
      () => '',
      (error: { stdout: string }) => error.stdout,
    );
    expect(report).toBe('');
  });
});

describe('the installed package', { timeout: PROGRAM_TIMEOUT_MS }, () => {
  it('is imported', async () => {
    const code = `
      import * as core from 'sluice';
      import * as node from 'sluice/node';
      import * as testing from 'sluice/testing';
      import { attachVirtioBlk } from 'sluice/v86';
      const calls = [core.createEngine, node.openDisk, node.serveNbd, attachVirtioBlk];
      const names = calls.map((f) => typeof f);
      console.log(JSON.stringify([...names, Object.keys(testing).length > 0]));`;
    const functions = Array.from({ length: 4 }, () => 'function');
    expect(await evaluate('module', code)).toEqual([...functions, true]);
  });

  it('has types for programs without the DOM library', async () => {
    const code = `
      import { openDisk, serveNbd } from 'sluice/node';
      import { Disk } from 'sluice';
      import { attachVirtioBlk, type V86Emulator } from 'sluice/v86';
      import { MemoryBackend } from 'sluice/testing';
      export const disks: Disk[] = [
        await openDisk('disk.img'),
        new Disk(new MemoryBackend({ sizeBytes: 512 })),
      ];
      export const servers = disks.map((disk) => serveNbd(disk));
      declare const emulator: V86Emulator;
      export const devices = disks.map((disk) => attachVirtioBlk(emulator, disk));`;
    expect(await typeErrors(code)).toBe('');
  });

  it('is required from CommonJS', async () => {
    const code = `
      const { openDisk, serveNbd } = require('sluice/node');
      console.log(JSON.stringify([typeof openDisk, typeof serveNbd]));`;
    expect(await evaluate('commonjs', code)).toEqual(['function', 'function']);
  });

  it('has the engine as a file that compiles', async () => {
    const code = `
      import { readFile } from 'node:fs/promises';
      const compile = async (name) =>
        WebAssembly.compile(await readFile(new URL(import.meta.resolve('sluice/' + name))));
      const modules = [await compile('engine.wasm'), await compile('engine.shared.wasm')];
      const imports = modules.flatMap((module) => WebAssembly.Module.imports(module));
      console.log(JSON.stringify(imports.map(({ name }) => name)));`;
    expect(await evaluate('module', code)).toEqual(['memory', 'memory']);
  });

  it('runs from the command line', async () => {
    const { stdout } = await run('npx', ['sluice', '--version'], { cwd: folder });
    expect(stdout.trim()).toContain(packageJson.version);
  });
});

/** What tsc says of a module that uses the package, with every declaration checked. */
async function typeErrors(code: string): Promise<string> {
  const file = join(folder, 'consumer.mts');
  writeFileSync(file, code);
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  const types = ['--types', 'node', '--typeRoots', join(ROOT, 'node_modules/@types')];
  const libraries = ['--lib', 'es2022,esnext.disposable', '--skipLibCheck', 'false'];
  const options = ['--strict', '--module', 'nodenext', '--target', 'es2022', '--noEmit'];
  const args = [tsc, ...options, ...libraries, ...types, '--pretty', 'false', file];
  // tsc exits with 2 when it finds an error, and what it prints is the error's stdout.
  return run(process.execPath, args, { cwd: folder }).then(
    ({ stdout }) => stdout,
    ({ stdout }: { stdout: string }) => stdout,
  );
}

/** The files behind an entry of `exports`: a path, or one for each condition. */
function filesOf(entry: string | Record<string, string>): string[] {
  return typeof entry === 'string' ? [entry] : Object.values(entry);
}
