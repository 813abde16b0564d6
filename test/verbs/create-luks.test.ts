/** Encrypted images that create makes open in QEMU, and say of themselves what its own say. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import { image, openDisk } from '../../src/node.ts';
import { pattern } from '../backend/driver.ts';
import { sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { type Asked, KEY, LUKS, make, makeByQemu, Pair, SECRET } from './made.ts';

const MIB = 2 ** 20;
const NAME = 'disk.qcow2';
const FAST = LUKS.replace('200', '1');
const KINDS: readonly Asked[] = [
  { options: 'compression_type=zstd', size: 4 * MIB },
  { options: 'encrypt.cipher-alg=aes-128', size: 4 * MIB },
  { options: 'encrypt.hash-alg=sha1', size: 4 * MIB },
  {
    options: 'encrypt.hash-alg=sha512,encrypt.cipher-mode=xts,encrypt.ivgen-alg=plain64',
    size: MIB * 4,
  },
  { options: 'preallocation=metadata', size: 4 * MIB },
  { options: 'preallocation=falloc,cluster_size=4k', size: 4 * MIB },
  { options: 'preallocation=full', size: 4 * MIB + 512 },
  { options: 'preallocation=full,compat=0.10', size: 4 * MIB },
  { options: 'preallocation=full,extended_l2=on', size: 4 * MIB },
  { options: 'compat=0.10', size: 4 * MIB },
  { options: 'cluster_size=512', size: 4 * MIB },
  { options: 'cluster_size=2M,refcount_bits=1', size: 4 * MIB },
  { options: 'preallocation=metadata,cluster_size=512,refcount_bits=64', size: 4 * MIB },
  { options: 'data_file=data.raw,preallocation=metadata', size: 4 * MIB },
  { options: 'lazy_refcounts=on', backing: ['base.raw', 'raw'] },
];

interface Slot {
  readonly active: boolean;
  readonly iters?: number;
}

interface Info {
  readonly [key: string]: unknown;
  readonly 'format-specific': {
    readonly data: { readonly encrypt: { readonly slots: readonly Slot[] } };
  };
}

/** Without what is measured or random. */
function told(info: Info): unknown {
  const { data } = info['format-specific'];
  const { encrypt } = data;
  const slots = encrypt.slots.map((slot) => ({ ...slot, ...(slot.active ? { iters: 0 } : {}) }));
  const same = { ...encrypt, slots, uuid: '', 'master-key-iters': 0 };
  const specific = { ...info['format-specific'], data: { ...data, encrypt: same } };
  return { ...info, 'actual-size': 0, 'format-specific': specific };
}

describeWithPeers(['qemu-img', 'qemu-io'], 'an encrypted image that create makes', () => {
  const pair = new Pair(imageFolder());
  const path = join(pair.ours, NAME);
  const inFolder = { folders: [pair.ours] };
  const qemuOptions = `driver=qcow2,file.filename=${NAME},encrypt.key-secret=s`;
  const io = (...commands: string[]): string => {
    const given = commands.flatMap((command) => ['-c', command]);
    return qemu(pair.ours, 'qemu-io', [...SECRET, ...given, '--image-opts', qemuOptions]);
  };
  beforeAll(() => {
    pair.both('qemu-img', 'create', '-q', '-f', 'raw', 'base.raw', '3M');
  });

  it.each(KINDS.map((kind) => [kind.options, kind] as const))('-o %s', async (options, kind) => {
    await make(pair.ours, NAME, { ...kind, options: `${FAST},${options}` });
    // It takes QEMU long to make one, and preallocation is not told.
    if (!options.includes('preallocation')) {
      makeByQemu(pair.theirs, NAME, { ...kind, options: `${LUKS},${options}` });
      const [ours, theirs] = pair.json('info', '--output=json', NAME) as [Info, Info];
      expect(told(ours)).toEqual(told(theirs));
    }
    const sizeBytes = kind.size ?? 3 * MIB;
    const bytes = pattern(100_001, 3);
    expect(io(`read -P 0 0 ${sizeBytes}`, 'write -P 7 65000 70000')).not.toMatch(/fail|error/i);
    {
      const how = { format: 'qcow2', writable: true, encryption: { key: KEY } } as const;
      await using disk = await openDisk(path, { ...how, backing: inFolder });
      expect((await disk.read(65_000, 70_000)).every((byte) => byte === 7)).toBe(true);
      expect((await disk.read(MIB, MIB)).every((byte) => byte === 0)).toBe(true);
      await disk.write(2 * MIB + 3, bytes);
      await disk.flush();
    }
    const read = io(`read -P ${bytes[0]} ${2 * MIB + 3} 1`, 'read -P 7 65000 70000');
    expect(read).not.toMatch(/fail|error/i);
    const check = ['check', ...SECRET, '--image-opts', qemuOptions];
    expect(qemu(pair.ours, 'qemu-img', check)).toContain('No errors were found');
    const key = { key: 'other' };
    const wrong = openDisk(path, { format: 'qcow2', encryption: key, backing: inFolder });
    await expectRefusal(wrong, 'ERR_SLUICE_KEY', /opens none/);
  });

  it('has another key each time, and as many rounds as the time allows', async () => {
    const rounds: number[] = [];
    const uuids = new Set<unknown>();
    for (const time of ['20', '400', '1']) {
      await make(pair.ours, NAME, { options: LUKS.replace('200', time), size: MIB });
      const info = await image.info(path);
      const specific = info['format-specific'];
      const encrypt = specific?.type === 'qcow2' ? specific.data.encrypt : undefined;
      if (encrypt?.format !== 'luks') return expect.unreachable('it is not encrypted');
      uuids.add(encrypt.uuid);
      rounds.push(encrypt.slots[0]?.iters ?? 0);
      expect(encrypt['master-key-iters']).toBeGreaterThanOrEqual(1000);
    }
    expect(uuids.size).toBe(3);
    expect(rounds[1]).toBeGreaterThan(5 * rounds[0]!);
    expect(rounds[2]).toBeGreaterThanOrEqual(1000);
  });

  it.each([
    ['a secret', ['--object', `secret,id=s,data=${KEY}`], ',encrypt.key-secret=s'],
    [
      'a secret in base64',
      ['--object', 'secret,id=s,file=key64,format=base64'],
      ',encrypt.key-secret=s',
    ],
    ['a secret in a file', ['--object', 'secret,id=s,file=key'], ',encrypt.key-secret=s'],
    ['a key file', ['--key-file', 'key'], ''],
  ])('takes its key from %s', async (_what, args, more) => {
    writeFileSync(join(pair.ours, 'key'), KEY);
    writeFileSync(join(pair.ours, 'key64'), `${Buffer.from(KEY).toString('base64')}\n`);
    const options = `encrypt.format=luks,encrypt.iter-time=1${more}`;
    const all = ['create', '-f', 'qcow2', ...args, '-o', options, NAME, '4M'];
    expect(await sluice(all, { cwd: pair.ours })).toMatchObject({
      code: 0,
      stdout: `Made '${NAME}': qcow2, 4 MiB (4194304 bytes), encrypted (LUKS)\n`,
    });
    expect(io('read -P 0 0 4M')).not.toMatch(/fail|error/i);
  });

  const WITH = ['-o', 'encrypt.format=luks,encrypt.key-secret=s'];
  it.each([
    ['keyring', [...WITH, '--object', 'secret_keyring,id=s,serial=1'], "'secret' here"],
    ['keyid', [...WITH, '--object', 'secret,id=s,data=x,keyid=k,iv=i'], "not 'keyid'"],
    ['no name', [...WITH, '--object', 'secret,data=x'], 'pass id=NAME'],
    ['no contents', [...WITH, '--object', 'secret,id=s'], 'either data=TEXT or file=PATH'],
    ['two contents', [...WITH, '--object', 'secret,id=s,data=a,file=b'], 'either data=TEXT'],
    ['no file', [...WITH, '--object', 'secret,id=s,file=no'], "the secret 's' in 'no'"],
    ['base64', [...WITH, '--object', 'secret,id=s,data=?,format=base64'], 'is not base64'],
    ['format', [...WITH, '--object', 'secret,id=s,data=x,format=hex'], 'raw or base64'],
    ['another name', [...WITH, '--object', 'secret,id=t,data=x'], "names the secret 's'"],
    ['two', [...WITH, '--object', 'secret,id=s,data=x', '--object', 'secret,id=s,data=y'], 'two'],
    ['no key', ['-o', 'encrypt.format=luks'], 'needs a passphrase'],
  ])('refuses secrets as qemu-img does: %s', async (_what, args, message) => {
    const all = ['create', '-f', 'qcow2', ...args, 'refused.qcow2', '1M'];
    const found = await sluice(all, { cwd: pair.ours });
    expect([found.code, found.stdout]).toEqual([1, '']);
    expect(found.stderr).toContain(message);
  });
});
