/** What qemu-img refuses to create is refused by its name, with the same exit code. */
import { spawnSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import { sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';

type Row = readonly [args: string, message: string];

/** The name of the file is FILE; the size, if there is one, comes behind it. */
const REFUSED: readonly Row[] = [
  ['FILE', 'pass SIZE'],
  ['-q', 'pass FILE'],
  ['FILE abc', 'It must be a size in bytes'],
  ['FILE 8E', 'It must be a size in bytes'],
  ['FILE 1M more', 'too many arguments'],
  ['-o size=2M FILE 3M', 'there are two sizes'],
  ['-o size=x FILE', 'size is a size in bytes'],
  ['-f qcow3 FILE 1M', 'raw, qcow2'],
  ['-o nope=1 FILE 1M', "no option 'nope'"],
  ['-o compat=2 FILE 1M', 'compat is 0.10 or 1.1'],
  ['-o cluster_size=100 FILE 1M', 'cluster_size is a power of two'],
  ['-o cluster_size=256 FILE 1M', 'from 9 to 21'],
  ['-o cluster_size=4M FILE 1M', 'from 9 to 21'],
  ['-o cluster_size=512 FILE 1T', 'use larger clusters (cluster_size)'],
  ['-o extended_l2=on,cluster_size=8k FILE 1M', 'from 14 to 21'],
  ['-o extended_l2=maybe FILE 1M', 'extended_l2 is on or off'],
  ['-o refcount_bits=65 FILE 1M', 'refcount_bits is a power of two'],
  ['-o refcount_bits=128 FILE 1M', 'from 0 to 6'],
  ['-o compat=0.10,lazy_refcounts=on FILE 1M', 'version 2 of qcow2 knows no'],
  ['-o compat=0.10,refcount_bits=8 FILE 1M', 'version 2 of qcow2 knows no'],
  ['-o compat=0.10,compression_type=zstd FILE 1M', 'version 2 of qcow2 knows no'],
  ['-o compat=0.10,data_file=d FILE 1M', 'version 2 of qcow2 knows no'],
  ['-o compression_type=lzma FILE 1M', 'compression_type is zlib or zstd'],
  ['-o preallocation=some FILE 1M', "preallocation must be 'off' or"],
  ['-o data_file_raw=on FILE 1M', 'there is no data file'],
  ['-o data_file=d,data_file_raw=on -b base.raw -F raw FILE', 'cannot be a backing file'],
  ['-o data_file=FILE FILE 1M', 'the image and its data file'],
  ['-o preallocation=metadata -b base.raw -F raw FILE', 'pass -o extended_l2=on with it'],
  ['-b base.raw FILE', 'pass -F raw or -F qcow2'],
  ['-u -b base.raw FILE 3M', 'pass -F raw or -F qcow2'],
  ['-F raw FILE 1M', 'no backing file'],
  ['-o backing_fmt=raw FILE 1M', 'no backing file'],
  ['-b no.raw -F raw FILE 3M', 'the file cannot be found'],
  ['-u -b no.raw -F raw FILE', 'pass SIZE'],
  ['-b base.raw -F qcow2 FILE', 'not a qcow2 image'],
  ['-b base.qcow2 -F vmdk FILE', 'raw, qcow2'],
  ['-b broken.qcow2 -F qcow2 FILE', 'the file cannot be found'],
  ['-b  -F raw FILE 1M', 'backing.name'],
  ['-o encryption=on FILE 1M', "option 'encryption' is not supported"],
  ['-o encrypt.format=aes FILE 1M', 'encrypt.format is luks here'],
  ['-o encrypt.format=luks FILE 1M', 'needs a passphrase'],
  ['-o encrypt.format=luks,encrypt.key-secret=z FILE 1M', "the secret 'z'"],
  ['-o encrypt.iter-time=10 FILE 1M', "'encrypt.iter-time' is for encrypted images"],
  ['-f raw -b base.raw -F raw FILE 1M', "'backing_file' is for qcow2"],
  ['-f raw -o preallocation=metadata FILE 1M', "preallocation must be 'off' or 'falloc' or 'full'"],
  ['-f raw -o cluster_size=4k FILE 1M', "'cluster_size' is for qcow2"],
  ['nowhere/FILE 1M', 'ENOENT'],
];

/** What only we refuse, because it is not made here. */
const OURS: readonly Row[] = [
  ['-o nocow=on FILE 1M', "option 'nocow' is not supported"],
  ['-o extent_size_hint=1M FILE 1M', "option 'extent_size_hint' is not supported"],
  ['-o LUKS,encrypt.cipher-alg=serpent-256 FILE 1M', 'aes-128 or aes-256 here'],
  ['-o LUKS,encrypt.cipher-mode=cbc FILE 1M', 'encrypt.cipher-mode is xts here'],
  ['-o LUKS,encrypt.ivgen-alg=essiv FILE 1M', 'encrypt.ivgen-alg is plain64 here'],
  ['-o LUKS,encrypt.ivgen-hash-alg=sha1 FILE 1M', "'encrypt.ivgen-hash-alg' is not supported"],
  ['-o LUKS,encrypt.hash-alg=ripemd160 FILE 1M', 'sha1 or sha256 or sha512 here'],
  ['-o LUKS,encrypt.iter-time=x FILE 1M', 'a whole number of milliseconds'],
  ['-o LUKS,data_file=d,data_file_raw=on FILE 1M', 'a raw data file is not encrypted'],
  ['--key-file base.raw FILE 1M', 'nothing is encrypted'],
  ['--key-file base.raw -o LUKS FILE 1M', 'there are two keys'],
  ['--key-file no -o encrypt.format=luks FILE 1M', "read the key file 'no'"],
  ['-o data_file=nbd:x FILE 1M', 'begins with a protocol'],
  ['--image-opts FILE 1M', 'option --image-opts is not supported'],
];

describeWithPeers(['qemu-img'], 'an image that cannot be', () => {
  const folder = imageFolder();
  beforeAll(() => {
    const img = (...args: string[]): string => qemu(folder, 'qemu-img', args);
    img('create', '-q', '-f', 'raw', 'base.raw', '3M');
    img('create', '-q', '-f', 'qcow2', 'base.qcow2', '3M');
    img('create', '-q', '-u', '-f', 'qcow2', '-b', 'no.raw', '-F', 'raw', 'broken.qcow2', '3M');
  });

  async function refused(text: string, message: string): Promise<string[]> {
    const luks = 'encrypt.format=luks,encrypt.key-secret=s';
    const given = text.replaceAll('FILE', 'refused').replace('LUKS', luks);
    const format = given.includes('-f ') ? [] : ['-f', 'qcow2'];
    const args = ['create', ...format, '--object', 'secret,id=s,data=x', ...given.split(' ')];
    // qemu-img leaves one of an earlier row.
    rmSync(join(folder, 'refused'), { force: true });
    const { code, stdout, stderr } = await sluice(args, { cwd: folder });
    expect([code, stdout]).toEqual([1, '']);
    expect(stderr).toContain(message);
    expect(stderr).toMatch(/^sluice: .*(?: \([A-Z_]+\)|\nTry 'sluice create --help'\.)\n$/);
    expect(existsSync(join(folder, 'refused'))).toBe(false);
    return args;
  }

  it.each(REFUSED)('%s: by both', async (text, message) => {
    const args = await refused(text, message);
    expect(spawnSync('qemu-img', args, { cwd: folder }).status).toBe(1);
  });

  it.each(OURS)('%s: not here', async (text, message) => {
    await refused(text, message);
  });
});
