/** What verbs say on the command line, line by line as qemu-img where it says the same. */
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';

import { image } from '../../src/node.ts';
import { sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { expectRefusal, imageFolder, writeImage } from '../image/scratch.ts';

const cwd = imageFolder();
const at = (name: string): string => join(cwd, name);

beforeAll(() => {
  writeImage(cwd, 'data.raw', Buffer.alloc(300_032, 7));
  writeImage(cwd, 'none.raw', '');
  mkdirSync(at('sub'));
  qemu(cwd, 'qemu-img', ['convert', '-c', '-O', 'qcow2', 'data.raw', 'compressed.qcow2']);
  qemu(cwd, 'qemu-img', ['create', '-qf', 'qcow2', 'none.qcow2', '0']);
  for (const name of ['over.qcow2', 'sub/over.qcow2']) {
    const below = name === 'over.qcow2' ? 'data.raw' : '../data.raw';
    qemu(cwd, 'qemu-img', ['create', '-qf', 'qcow2', '-b', below, '-F', 'raw', name]);
  }
});

/** Exit codes and stdout of both programs. */
async function both(args: readonly string[], own: readonly string[] = []) {
  const [verb = '', ...rest] = args;
  const theirs = spawnSync('qemu-img', args, { cwd, encoding: 'utf8' });
  const { code, stdout } = await sluice([verb, ...own, ...rest], { cwd });
  return {
    theirs: { code: theirs.status, stdout: theirs.stdout },
    ours: { code, stdout },
  };
}

describe('map', () => {
  it.for(['over.qcow2', './over.qcow2', 'sub/over.qcow2', 'ABSOLUTE/sub/over.qcow2'])(
    'calls the backing file of %s what qemu-img calls it',
    async (name) => {
      const path = name.replace('ABSOLUTE', cwd);
      const { theirs, ours } = await both(['map', path], ['--allow', '.']);
      expect(ours).toEqual(theirs);
    },
  );

  it('has its first line where the rest cannot be told', async () => {
    const { theirs, ours } = await both(['map', 'compressed.qcow2']);
    expect(ours).toEqual(theirs);
    expect((await both(['map', 'absent.qcow2'])).ours.stdout).toBe('');
  });

  it.for([['none.qcow2'], ['-f', 'raw', 'none.raw'], ['-f', 'raw', '-s', '1M', 'data.raw']])(
    'tells one range without bytes of %s',
    async (args) => {
      const { theirs, ours } = await both(['map', '--output=json', ...args]);
      expect(JSON.parse(ours.stdout)).toEqual(JSON.parse(theirs.stdout));
      const human = await both(['map', ...args]);
      expect(human.ours).toEqual(human.theirs);
    },
  );
});

describe('info --backing-chain', () => {
  it.for(['over.qcow2', 'sub/over.qcow2'])('names the files of %s as qemu-img', async (path) => {
    const args = ['info', '--backing-chain', '--output=json', path];
    const { theirs, ours } = await both(args, ['--allow', '.']);
    const names = (text: string): unknown =>
      (JSON.parse(text) as image.ImageInfo[]).map((one) => [
        one.filename,
        one['full-backing-filename'],
      ]);
    expect(names(ours.stdout)).toEqual(names(theirs.stdout));
  });
});

describe('compare', () => {
  it('ends with 2 without the secret that is named', async () => {
    const files = ['data.raw', 'data.raw'];
    const run = await sluice(['compare', '--key-secret', 'nope', ...files], { cwd });
    expect(run.code).toBe(2);
    expect(run.stderr).toContain("the secret 'nope'");
  });

  it('names both ways to a key that is missing', async () => {
    const made = { encryption: { key: 'open', iterTimeMs: 1 } };
    await image.create(at('secret.qcow2'), { format: 'qcow2', sizeBytes: 2 ** 20, image: made });
    const run = await sluice(['compare', 'secret.qcow2', 'data.raw'], { cwd });
    expect(run.code).toBe(2);
    expect(run.stderr).toMatch(/--key-file.*--key-secret/);
  });

  it('says of disks that differ that their sizes do too', async () => {
    writeImage(cwd, 'longer.raw', Buffer.alloc(400_384, 8));
    const { stdout } = await sluice(['compare', 'data.raw', 'longer.raw'], { cwd });
    expect(stdout).toBe('The disks differ, first at offset 0, and have other sizes.\n');
  });
});

describe('bench', () => {
  it('says that it takes no URIs', async () => {
    const uri = 'nbd+unix:///?socket=disk.sock';
    for (const format of [[], ['-f', 'raw']]) {
      const run = await sluice(['bench', ...format, uri], { cwd });
      expect(run.stderr).toContain('is a URI (nbd+unix), and images are named by their paths');
    }
    await expectRefusal(image.bench(uri), 'ERR_SLUICE_UNSUPPORTED', /is a URI/);
  });
});

describe('resize', () => {
  it('takes a change of its size as a bigint, too', async () => {
    const path = writeImage(cwd, 'grown.raw', Buffer.alloc(1024));
    await expect(image.resize(path, { by: 512n }, { format: 'raw' })).resolves.toBe(1536);
    const shrunk = image.resize(path, { by: -512n }, { format: 'raw', shrink: true });
    await expect(shrunk).resolves.toBe(1024);
    const huge = image.resize(path, { by: 2n ** 64n }, { format: 'raw' });
    await expectRefusal(huge, 'ERR_SLUICE_INVALID_ARGUMENT', /size.by must be a whole number/);
  });
});
