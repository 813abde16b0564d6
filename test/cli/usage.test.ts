import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import packageJson from '../../package.json' with { type: 'json' };
import { CACHE_MODES } from '../../src/cache-mode.ts';
import { run, sluice, SLUICE } from './sluice.ts';

const ENGINE = new URL('../../dist/engine.wasm', import.meta.url);

describe('sluice --version', () => {
  it('prints the version of the package', async () => {
    const { code, stdout, stderr } = await sluice(['--version']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/^sluice \S+ \(engine [0-9a-f]{12}, Node \S+\)\n$/);
    expect(stdout).toContain(`sluice ${packageJson.version} `);
  });

  it('prints JSON with the hash of the engine that is shipped', async () => {
    const { code, stdout } = await sluice(['--version', '--output', 'json']);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual({
      name: 'sluice',
      version: packageJson.version,
      'wasm-sha256': createHash('sha256')
        .update(await readFile(ENGINE))
        .digest('hex'),
      node: process.versions.node,
    });
  });

  it('refuses other output formats', async () => {
    expect(await sluice(['--version', '--output', 'yaml'])).toMatchObject({
      code: 1,
      stdout: '',
      stderr: "sluice: --output is human or json, not 'yaml'\nTry 'sluice --help'.\n",
    });
  });
});

describe('help', () => {
  it('of sluice goes to stdout and names the commands', async () => {
    for (const flag of ['-h', '--help']) {
      const { code, stdout, stderr } = await sluice([flag]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
      expect(stdout).toMatch(/^Usage: sluice COMMAND \[OPTIONS\]\n/);
      expect(stdout).toMatch(/^ {2}serve .*NBD/m);
    }
  });

  it('of serve names every option, every cache mode, and examples', async () => {
    const { code, stdout, stderr } = await sluice(['serve', '--help']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/^Usage: sluice serve \[OPTIONS\] IMAGE\.\.\.\n/);
    const options = [...stdout.matchAll(/^ {2}(?:(-\w), )?(?: {4})?(--[\w-]+)/gm)];
    expect(options.map(([, short, long]) => [short, long])).toEqual([
      ['-f', '--format'],
      [undefined, '--cache'],
      [undefined, '--discard'],
      [undefined, '--aio'],
      [undefined, '--elevator'],
      [undefined, '--flush-wait'],
      ['-r', '--read-only'],
      [undefined, '--no-lock'],
      [undefined, '--allow'],
      [undefined, '--backing-format'],
      [undefined, '--key-file'],
      [undefined, '--metadata-cache'],
      [undefined, '--flush-interval'],
      [undefined, '--trace'],
      ['-k', '--socket'],
      ['-p', '--port'],
      ['-b', '--bind'],
      ['-x', '--export-name'],
      ['-D', '--description'],
      ['-A', '--allocation-depth'],
      ['-B', '--bitmap'],
      ['-e', '--shared'],
      [undefined, '--handshake-limit'],
      [undefined, '--idle-limit'],
      [undefined, '--busy-poll'],
      [undefined, '--tls'],
      [undefined, '--tls-certificates'],
      [undefined, '--tls-psk'],
      [undefined, '--tls-verify-peer'],
      ['-t', '--persistent'],
      [undefined, '--fork'],
      [undefined, '--pid-file'],
      [undefined, '--run'],
      [undefined, '--control'],
      ['-v', '--verbose'],
      ['-h', '--help'],
    ]);
    for (const mode of Object.keys(CACHE_MODES)) expect(stdout).toContain(`\n  ${mode} `);
    expect(stdout).toMatch(/default:\s+100; qemu-nbd: 1/);
    expect(stdout).toContain('\nExamples:\n  sluice serve ');
  });

  it('fits a terminal of 80 columns', async () => {
    const helps = await Promise.all([sluice(['--help']), sluice(['serve', '--help'])]);
    const lines = helps.flatMap(({ stdout }) => stdout.split('\n'));
    expect(lines.filter((line) => line.length > 80)).toEqual([]);
  });
});

describe('a usage error', () => {
  const QUEUES = ['vhost-user', '-k', 's', '--num-queues'];
  const ERRORS: readonly [args: string[], message: string, command: string][] = [
    [[], 'which command?', 'sluice'],
    [['conjure'], "unknown command 'conjure'", 'sluice'],
    [['--conjure'], "unknown option '--conjure'", 'sluice'],
    [['serve'], "missing required argument 'image'", 'sluice serve'],
    [['serve', 'a', 'c/a'], "two exports are named 'a'", 'sluice serve'],
    [['serve', '-x', 'n', 'a', 'b'], '-x is given once for 2 images: give it', 'sluice serve'],
    [['serve', '-x', 'n', '-x', 'm', 'a'], '-x is given 2 times for 1 image', 'sluice serve'],
    [['serve', '-f', 'raw', '-f', 'raw', 'a'], '-f is given 2 times for 1 im', 'sluice serve'],
    [['serve', '-D', 'x', '-D', 'y', 'a'], '-D is given 2 times for 1 image', 'sluice serve'],
    [['serve', '-x', 'n', '-x', 'n', 'a', 'b'], "two exports are named 'n'", 'sluice serve'],
    [['serve', '-f', 'raw', '-f', 'raw', 'a', 'b', 'c'], '2 times for 3 images', 'sluice serve'],
    [['serve', '--trace', 't', 'a', 'b'], '--trace records one image', 'sluice serve'],
    [['serve', '--conjure', 'a'], "unknown option '--conjure'", 'sluice serve'],
    [['serve', '--fork', 'a', 'c/a'], "two exports are named 'a'", 'sluice serve'],
    [['serve', '--cache', 'writearound', 'a'], 'writeback', 'sluice serve'],
    [['serve', '--discard', 'maybe', 'a'], 'unmap, ignore', 'sluice serve'],
    [['serve', '-p', '65536', 'a'], 'a whole number from 0 to 65535', 'sluice serve'],
    [['serve', '-p', '-1', 'a'], 'a whole number from 0 to 65535', 'sluice serve'],
    [['serve', '-p', 'http', 'a'], 'a whole number from 0 to 65535', 'sluice serve'],
    [['serve', '-e', '1.5', 'a'], 'a whole number', 'sluice serve'],
    [['serve', '-e', '', 'a'], 'a whole number', 'sluice serve'],
    [['serve', '-k', 's', '-p', '1', 'a'], 'cannot be used with', 'sluice serve'],
    [['serve', '-k', 's', '-b', '::', 'a'], 'cannot be used with', 'sluice serve'],
    [['serve', '-k', '', 'a'], 'must not be empty', 'sluice serve'],
    [['serve', '--tls', 'on', 'a'], 'needs --tls-certificates or --tls-psk', 'sluice serve'],
    [['serve', '--tls', 'yes', 'a'], 'off, on, require', 'sluice serve'],
    [['serve', '--tls-psk', 'k', '--tls-verify-peer', 'a'], 'needs --tls-cert', 'sluice serve'],
    [['serve', '--tls-psk', 'k', '--tls-certificates', 'f', 'a'], 'cannot be', 'sluice serve'],
    [['serve', '--handshake-limit', '-1', 'a'], 'a whole number from 0 to', 'sluice serve'],
    [['serve', 'a', '-k'], 'argument missing', 'sluice serve'],
    [['serve', '--run', 'true', '--fork', 'a'], 'cannot be used with', 'sluice serve'],
    [['serve', '-v', '--fork', 'a'], 'cannot be used with', 'sluice serve'],
    [['serve', '--run', '', 'a'], 'must not be empty', 'sluice serve'],
    [['stats'], "missing required argument 'socket'", 'sluice stats'],
    [['stats', '--watch', '0', 'a'], 'a whole number from 1 to 86400', 'sluice stats'],
    [['vhost-user', '-k', 's', 'a', 'b'], 'Expected 1 argument but got 2', 'sluice vhost-user'],
    [[...QUEUES, '0', 'a'], 'a whole number from 1 to 63', 'sluice vhost-user'],
    [[...QUEUES, '64', 'a'], 'a whole number from 1 to 63', 'sluice vhost-user'],
  ];

  it.each(ERRORS)('%j exits with 1 and points at the help', async (args, message, command) => {
    const { code, stdout, stderr } = await sluice(args);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^sluice: /);
    expect(stderr).toContain(message);
    expect(stderr.endsWith(`\nTry '${command} --help'.\n`)).toBe(true);
  });

  it.each([
    ['crash', 'create', 'info', 'check', 'map', 'measure', 'compare', 'bench'],
    ['snapshot', 'amend', 'commit', 'rebase', 'bitmap', 'resize'],
  ])('is an argument too many of any command: %s, %s, ...', async (...commands) => {
    const extra = Array.from({ length: 4 }, (_, index) => `/none/${index}`);
    const ended = await Promise.all(commands.map((command) => sluice([command, ...extra])));
    expect(ended.map(({ code }) => code)).toEqual(commands.map(() => 1));
    for (const { stderr } of ended) expect(stderr).toMatch(/^sluice: too many arguments/);
  });

  it('suggests the option that was meant', async () => {
    const { stderr } = await sluice(['serve', '--persistant', 'a']);
    expect(stderr).toContain('Did you mean --persistent?');
  });
});

describe('the executable', () => {
  it('says which Node it needs when it runs on an older one', async () => {
    const old = `Object.defineProperty(process.versions, 'node', { value: '18.19.1' })`;
    const preload = `data:text/javascript,${encodeURIComponent(old)}`;
    expect(await run(process.execPath, ['--import', preload, SLUICE, '--version'])).toMatchObject({
      code: 1,
      stdout: '',
      stderr: 'sluice: needs Node 20.19 or newer, not 18.19.1\n',
    });
  });
});
