/** A block device that a disk is copied to shows nothing of what it held before. */
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import { sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { create, write } from './twins.ts';

const MIB = 2 ** 20;
const DEVICE_BYTES = 24 * MIB;

describeWithPeers(['qemu-img', 'qemu-io'], 'a block device', () => {
  const folder = imageFolder();
  let from = '';
  beforeAll(() => {
    from = create(folder, 'from.qcow2', '10M');
    write(from, 'write -P 1 3M 100k', 'write -z 5M 1M', 'write -P 2 9M 300k');
  });

  /** Undefined: none can be made here. */
  function makeDevice(bytes = DEVICE_BYTES): string | undefined {
    const file = join(folder, 'file');
    writeFileSync(file, new Uint8Array(bytes).fill(0xff));
    const { status, stdout } = spawnSync('losetup', ['-f', '--show', file], { encoding: 'utf8' });
    return status === 0 ? stdout.trim() : undefined;
  }

  /** Of the disk; the device has more. */
  const bytesOf = (path: string): Buffer => readFileSync(path).subarray(0, 10 * MIB);

  it.for([
    ['-O', 'raw'],
    ['-O', 'raw', '-n'],
    ['-O', 'raw', '-o', 'preallocation=full'],
    ['-O', 'qcow2'],
    ['-O', 'qcow2', '-c'],
    ['-O', 'qcow2', '-o', 'preallocation=metadata'],
    ['-O', 'qcow2', '-o', 'preallocation=falloc,extended_l2=on'],
  ])('%j: reads as the source', async (args, context) => {
    const device = makeDevice();
    if (device === undefined) return context.skip('loop devices cannot be made here');
    try {
      const run = await sluice(['convert', ...args, from, device]);
      expect(run).toMatchObject({ code: 0, stderr: '' });
      const isRaw = args[1] === 'raw';
      for (const [path, name] of [
        [from, 'expected'],
        [device, 'found'],
      ] as const) {
        const format = isRaw && path === device ? 'raw' : 'qcow2';
        qemu(folder, 'qemu-img', ['convert', '-f', format, '-O', 'raw', path, name]);
      }
      const [expected, found] = ['expected', 'found'].map((name) => bytesOf(join(folder, name)));
      expect(found!.equals(expected!)).toBe(true);
      expect(statSync(device).isBlockDevice()).toBe(true);
    } finally {
      execFileSync('losetup', ['-d', device]);
    }
  });

  it.for([
    [['-o', 'preallocation=metadata'], 'the device has 1048576 bytes, and the image takes', true],
    [['-S', '0'], 'no space is left (ENOSPC); use a larger device', false],
  ] as const)('that is too small: %j', async ([args, message, isUntouched], context) => {
    const device = makeDevice(MIB);
    if (device === undefined) return context.skip('loop devices cannot be made here');
    try {
      const run = await sluice(['convert', '-O', 'qcow2', ...args, from, device]);
      expect(run.code).toBe(1);
      expect(run.stderr).toContain(message);
      const noise = Buffer.alloc(MIB, 0xff);
      if (isUntouched) expect(readFileSync(device).equals(noise)).toBe(true);
    } finally {
      execFileSync('losetup', ['-d', device]);
    }
  });
});
