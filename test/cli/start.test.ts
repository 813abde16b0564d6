/** scripts/start.mjs, in a folder of its own: a checkout that is built. */
import { execFileSync } from 'node:child_process';
import { copyFile, mkdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { NBD_CMD_WRITE, NbdClient } from './nbd-client.ts';
import { Folder, hasScript, run, Running, type RunOptions, sluice } from './sluice.ts';

const ESCAPE = String.fromCharCode(27);
const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** Copies what `npm start` runs; the build is there already. */
async function checkoutIn(folder: Folder): Promise<string> {
  await mkdir(folder.file('scripts'));
  for (const name of ['start.mjs', 'paths.mjs']) {
    await copyFile(join(ROOT, 'scripts', name), folder.file(`scripts/${name}`));
  }
  await writeFile(folder.file('scripts/prepare.mjs'), 'export const prepare = () => true;\n');
  await symlink(join(ROOT, 'dist'), folder.file('dist'));
  return folder.file('scripts/start.mjs');
}

/** `npm start -- ARGS` until its server is ready. */
async function start(script: string, args: readonly string[], options: RunOptions) {
  const server = new Running(process.execPath, [script, ...args], options);
  const uri = await server.firstLine();
  return { server, uri };
}

describe('npm start', () => {
  it('knows which options of sluice serve take a value', async () => {
    const { stdout } = await sluice(['serve', '--help']);
    const source = await readFile(join(ROOT, 'scripts/start.mjs'), 'utf8');
    const valued = [...stdout.matchAll(/--([\w-]+) </g)].map(([, name]) => name!);
    expect(valued.length).toBeGreaterThan(10);
    const missing = valued.filter((name) => !new RegExp(`^  '?${name}'?: `, 'm').test(source));
    expect(missing).toEqual([]);
  });

  it('serves the default disk, with options but no image too', async () => {
    await using folder = await Folder.make();
    const script = await checkoutIn(folder);
    for (const args of [
      ['--cache', 'writeback'],
      ['-r', '-x', 'name'],
      ['-r', '-p', '0'],
    ]) {
      const { server, uri } = await start(script, args, { cwd: folder.path });
      await using running = server;
      expect(uri).toMatch(/^nbd/);
      expect((await stat(folder.file('data/disk.img'))).size).toBe(2 ** 30);
      expect(await running.stop()).toMatchObject({ code: 0 });
    }
  });

  it('serves an image that is named, and only that', async () => {
    await using folder = await Folder.make();
    const script = await checkoutIn(folder);
    await folder.image('my.img', 2 ** 20);
    const { server, uri } = await start(script, ['-e', '5', 'my.img'], { cwd: folder.path });
    await using running = server;
    {
      await using client = await NbdClient.connect(uri);
      expect(client.sizeBytes).toBe(2 ** 20);
      await client.request(NBD_CMD_WRITE, 0, 4, Buffer.from('here'));
    }
    expect(await running.stop()).toMatchObject({ code: 0 });
    await expect(stat(folder.file('data/disk.img'))).rejects.toThrow('ENOENT');
  });

  it('says what to type where O_DIRECT is refused', async (context) => {
    const shm = await Folder.make('/dev/shm').catch(() => undefined);
    if (shm === undefined) return context.skip('needs a tmpfs at /dev/shm');
    await using folder = shm;
    const script = await checkoutIn(folder);
    const { code, stderr } = await run(process.execPath, [script], { cwd: folder.path });
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /pass --cache writeback or .* \(ERR_SLUICE_DIRECT_UNSUPPORTED\)\nTry: npm start -- --cache /,
    );
    const options = { cwd: folder.path };
    const { server, uri } = await start(script, ['--cache', 'writeback'], options);
    await using running = server;
    expect(uri).toMatch(/^nbd\+unix:/);
    expect(await running.stop()).toMatchObject({ code: 0 });
  });

  it('draws the status line as wide as the terminal is now', async (context) => {
    if (!hasScript()) return context.skip('needs script (Debian package bsdutils)');
    await using folder = await Folder.make();
    const script = await checkoutIn(folder);
    const command = `stty cols 160 && tty && exec '${process.execPath}' '${script}' --cache unsafe`;
    await using server = new Running('script', ['-qec', command, '/dev/null'], {
      cwd: folder.path,
      env: { TERM: 'xterm', NO_COLOR: '1' },
      input: null,
    });
    const [terminal] = await server.shows(/^\/dev\S+/);
    await server.shows(/req\/s[^\r]*client/);
    execFileSync('stty', ['-F', terminal, 'cols', '30']);
    const [, line] = await server.shows(
      new RegExp(`\r(\\d\\S*/s r[^\r\n${ESCAPE}]*)${ESCAPE}\\[K`),
    );
    expect(line).toHaveLength(29);
    server.child.stdin?.write('\x03');
    expect(await server.outcome).toMatchObject({ code: 0 });
  });
});
