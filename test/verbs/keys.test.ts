/** The key of an encrypted image is a secret of the command line, as with qemu-img, or a file. */
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';

import { image } from '../../src/node.ts';
import { sluice } from '../cli/sluice.ts';
import { imageFolder } from '../image/scratch.ts';

const KEY = 'open sesame';
const MIB = 2 ** 20;
const SECRET = ['--object', 'secret,id=s,file=key'];
const BY_SECRET = [...SECRET, '--key-secret', 's'];

/** What the image is opened with its key for. */
const KEYED: readonly (readonly string[])[] = [
  ['convert', 'disk.qcow2', 'copy.img'],
  ['dd', 'if=disk.qcow2', 'of=part.img', 'count=1'],
  ['compare', 'disk.qcow2', 'zeroes.img'],
  ['bench', '-c', '1', '-f', 'qcow2', 'disk.qcow2'],
  ['resize', 'disk.qcow2', '2M'],
  ['amend', '-o', 'size=3M', 'disk.qcow2'],
  ['commit', 'over.qcow2'],
  ['rebase', '-b', '', 'over.qcow2'],
];

/** What needs no key, and takes a secret all the same. */
const KEYLESS: readonly (readonly string[])[] = [
  ['info', 'disk.qcow2'],
  ['check', 'disk.qcow2'],
  ['map', 'disk.qcow2'],
  ['measure', '-O', 'qcow2', 'disk.qcow2'],
  ['snapshot', '-l', 'disk.qcow2'],
  ['bitmap', '--add', 'disk.qcow2', 'one'],
];

describe('a key on the command line', () => {
  const cwd = imageFolder();
  const at = (name: string): string => join(cwd, name);
  beforeAll(async () => {
    writeFileSync(at('key'), KEY);
    await image.create(at('zeroes.img'), { sizeBytes: MIB });
    const encryption = { key: KEY, iterTimeMs: 10 };
    const options = { format: 'qcow2', sizeBytes: MIB } as const;
    await image.create(at('empty.qcow2'), { ...options, image: { encryption } });
    const backing = { name: 'base.qcow2', format: 'qcow2' } as const;
    const over = { image: { encryption, backing }, openBacking: false };
    await image.create(at('empty-over.qcow2'), { ...options, ...over });
  });
  const fresh = (): void => {
    for (const name of ['disk.qcow2', 'base.qcow2']) copyFileSync(at('empty.qcow2'), at(name));
    copyFileSync(at('empty-over.qcow2'), at('over.qcow2'));
  };
  const run = (args: readonly string[], key: readonly string[]) => {
    fresh();
    const [verb = '', ...rest] = args;
    return sluice([verb, ...key, ...rest], { cwd });
  };

  it.for(KEYED)('of %s is a secret, or in a file', async (args) => {
    expect(await run(args, BY_SECRET)).toMatchObject({ code: 0 });
    expect(await run(args, ['--key-file', 'key'])).toMatchObject({ code: 0 });
    const none = await run(args, ['--key-secret', 's']);
    expect(none.code).not.toBe(0);
    expect(none.stderr).toContain("--key-secret names the secret 's', and there is none");
    const both = await run(args, [...BY_SECRET, '--key-file', 'key']);
    expect(both.code).not.toBe(0);
    expect(both.stderr).toContain('cannot be used with');
  });

  it.for(KEYLESS)('of %s is not needed, and may be there', async (args) => {
    expect(await run(args, SECRET)).toMatchObject({ code: 0, stderr: '' });
  });
});
