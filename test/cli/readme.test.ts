/** README.md says what is so: its example runs, its tables are the code's. */
import { mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { CACHE_MODES, DEFAULT_CACHE_MODE } from '../../src/cache-mode.ts';
import { ERROR_CODES } from '../../src/errors.ts';
import {
  CLOSE_TIMEOUT_MS,
  HANDSHAKE_GRACE_MS,
  HANDSHAKE_TIMEOUT_MS,
  MAX_HANDSHAKES,
  MAX_HANDSHAKES_IN_A_BURST,
  MAX_PARKED,
  MAX_PAYLOAD_BYTES,
  MAX_REQUESTS,
} from '../../src/nbd/limits.ts';
import { sluice, succeed } from './sluice.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const README = await readFile(join(ROOT, 'README.md'), 'utf8');
const CHANGELOG = await readFile(join(ROOT, 'CHANGELOG.md'), 'utf8');

/** The text of a chapter. */
function chapter(title: string): string {
  const [, text] = README.split(`\n## ${title}\n`);
  expect(text, `a chapter ${title}`).toBeDefined();
  return text!.split('\n## ')[0]!;
}

/** The rows of a table that begin with a word in code. */
function rows(text: string): string[][] {
  return [...text.matchAll(/^\| `.*\|$/gm)].map(([row]) =>
    row
      .slice(1, -1)
      .split('|')
      .map((cell) => cell.trim()),
  );
}

/** Runs the marked program of a chapter on a disk of 4 MiB; what it prints, in lines. */
async function runExample(title: string): Promise<string[]> {
  const [, code] = /<!-- run by [^]*?```js\n([^]*?)```/.exec(chapter(title)) ?? [];
  // Below the root, so that the example finds the package by its name.
  await mkdir(join(ROOT, 'build'), { recursive: true });
  const folder = await mkdtemp(join(ROOT, 'build', 'readme-'));
  try {
    await writeFile(join(folder, 'example.mjs'), code!);
    await writeFile(join(folder, 'disk.img'), '');
    await truncate(join(folder, 'disk.img'), 4 * 2 ** 20);
    const output = await succeed(process.execPath, ['example.mjs'], { cwd: folder });
    return output.trimEnd().split('\n');
  } finally {
    await rm(folder, { recursive: true });
  }
}

describe('the README', () => {
  it('has an example that runs', async () => {
    const lines = await runExample('Library');
    expect(lines[0]).toBe('hello');
    expect(lines.slice(1, -2).join('\n')).toMatch(/^0 \d+ data(\n\d+ \d+ (data|zero|hole))*$/);
    expect(lines.slice(-2)).toEqual([
      'nbd+unix:///?socket=disk.sock',
      '{ received: 1, elided: 0, coalesced: 0 }',
    ]);
  });

  it('has an example of a guest that runs', async () => {
    expect(await runExample('Virtio')).toEqual(['0 0 0 7']);
  });

  it("has an example of a browser's storage that runs", async () => {
    expect(await runExample('v86')).toEqual(['7 7']);
  });

  it('has an example of the work on images that runs', async () => {
    expect(await runExample('Images')).toEqual(["[ 'before-upgrade' ]", '0 0']);
  });

  it('has an example of several disks that runs', async () => {
    expect(await runExample('NBD')).toEqual([
      'nbd+unix:///root?socket=disks.sock nbd+unix:///data?socket=disks.sock',
    ]);
  });

  it.each(['serve', 'vhost-user', 'crash'])('has the help of sluice %s', async (command) => {
    const quote = new RegExp(`\\$ sluice ${command} --help\\n([^]*?)\`\`\``);
    const [, quoted] = quote.exec(chapter('Command line')) ?? [];
    expect(quoted).toBe((await sluice([command, '--help'])).stdout);
  });

  it('has every error code with its meaning', () => {
    const table = rows(chapter('Library'))
      .filter(([code]) => code!.startsWith('`ERR_'))
      .map(([code, text]) => [code!.slice(1, -1), text]);
    expect(Object.fromEntries(table)).toEqual(ERROR_CODES);
  });

  it('has every cache mode with its axes', () => {
    const table = rows(chapter('Cache modes')).map(([name, cache, writes, flush, survives]) => [
      name!.slice(1, -1),
      {
        direct: cache === 'bypassed (O_DIRECT)',
        wce: writes === 'the plain descriptor',
        noFlush: survives!.startsWith('**no**'),
        flush,
      },
    ]);
    const modes = Object.entries(CACHE_MODES).map(([name, axes]) => {
      const flush = axes.wce && !axes.noFlush ? 'fdatasync' : 'nothing';
      return [name, { ...axes, flush }];
    });
    expect(Object.fromEntries(table)).toEqual(Object.fromEntries(modes));
    expect(chapter('Cache modes')).toContain(`the default, is \`${DEFAULT_CACHE_MODE}\``);
  });

  it("has the server's limits", () => {
    const text = chapter('NBD');
    expect(text).toContain(`| requests of one connection in flight | ${MAX_REQUESTS} |`);
    expect(text).toContain(`${MAX_PAYLOAD_BYTES / 2 ** 20} MiB`);
    expect(text).toContain(`clients | ${HANDSHAKE_TIMEOUT_MS / 1000} s |`);
    expect(text).toContain(`in negotiation at once | ${MAX_HANDSHAKES} |`);
    expect(text).toContain(`if that has had ${HANDSHAKE_GRACE_MS / 1000} s`);
    expect(text).toContain(`when\n${MAX_HANDSHAKES_IN_A_BURST} do, in any case`);
    expect(text).toContain(`clients at once | ${MAX_PARKED}; a newcomer is dropped |`);
    expect(text).toContain(`waited for | ${CLOSE_TIMEOUT_MS / 1000} s |`);
  });

  it('names commands that exist', async () => {
    const manifest = await readFile(join(ROOT, 'package.json'), 'utf8');
    const { scripts } = JSON.parse(manifest) as { scripts: Record<string, string> };
    const named = [
      ...README.matchAll(
        /npm (?:run )?(start|test|bench:nbd|bench:flush|bench|build|fuzz|coverage)\b/g,
      ),
    ];
    const missing = named.map(([, name]) => name!).filter((name) => scripts[name] === undefined);
    expect(missing).toEqual([]);
  });
});

describe('the change log', () => {
  it('begins with the version of the package, durability first', async () => {
    const manifest = await readFile(join(ROOT, 'package.json'), 'utf8');
    const { version } = JSON.parse(manifest) as { version: string };
    const [, latest] = CHANGELOG.split('\n## ');
    expect(latest?.split('\n')[0]).toBe(version);
    const titles = [...latest!.matchAll(/^### (.*)$/gm)].map(([, title]) => title!);
    const order = ['Durability', 'Performance', 'Features', 'Fixes'];
    expect(titles).toEqual(order.filter((title) => titles.includes(title)));
    expect(titles.length).toBeGreaterThan(0);
  });
});
