/** Images that are made by sluice and by qemu-img from the same options, in two folders. */
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

import { madeOptionsOf } from '../../src/cli/verbs/create-options.ts';
import { image, type ImageFormat } from '../../src/node.ts';
import { qemu } from '../image/bad-inputs/bases.ts';

export const KEY = 'open sesame';
export const SECRET: readonly string[] = ['--object', `secret,id=s,data=${KEY}`];
/** QEMU needs as long to measure the rounds on a busy machine. */
export const LUKS = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=200';
export const TRIES = 20;

/** What is made. */
export interface Asked {
  readonly options: string;
  readonly size?: number;
  readonly format?: ImageFormat;
  readonly backing?: readonly [name: string, format: 'raw' | 'qcow2'];
}

/** Two folders, and what is done in both of them. */
export class Pair {
  readonly ours: string;
  readonly theirs: string;

  constructor(folder: string) {
    this.ours = join(folder, 'ours');
    this.theirs = join(folder, 'theirs');
    for (const path of [this.ours, this.theirs]) mkdirSync(path);
  }

  /** A command in both folders. */
  both(program: 'qemu-img' | 'qemu-io', ...args: string[]): void {
    for (const path of [this.ours, this.theirs]) qemu(path, program, args);
  }

  /** JSON that qemu-img writes of an image in each folder. */
  json(...args: string[]): [ours: unknown, theirs: unknown] {
    const [ours, theirs] = [this.ours, this.theirs].map((path) =>
      JSON.parse(qemu(path, 'qemu-img', args)),
    );
    return [ours, theirs];
  }

  async make(name: string, asked: Asked): Promise<void> {
    makeByQemu(this.theirs, name, asked);
    await make(this.ours, name, asked);
  }
}

/** As the command line does it, in this process. */
export async function make(
  folder: string,
  name: string,
  { options, size, format = 'qcow2', backing }: Asked,
): Promise<image.CreatedImage> {
  const given = {
    options: options === '' ? [] : [options],
    ...(backing === undefined ? {} : { backing: backing[0], backingFormat: backing[1] }),
  };
  const secrets = new Map([['s', new TextEncoder().encode(KEY)]]);
  const keys = { secrets, key: undefined, isNeeded: true };
  const { sizeBytes, preallocation, image: made } = madeOptionsOf(format, given, keys);
  return image.create(join(folder, name), {
    format,
    preallocation,
    sizeBytes: size ?? sizeBytes,
    image: made,
    backing: { folders: [folder] },
  });
}

export function makeByQemu(
  folder: string,
  name: string,
  { options, size, format = 'qcow2', backing }: Asked,
): void {
  const args = [
    'create',
    '-q',
    '-f',
    format,
    ...SECRET,
    ...(options === '' ? [] : ['-o', options]),
    ...(backing === undefined ? [] : ['-b', backing[0], '-F', backing[1]]),
    name,
    ...(size === undefined ? [] : [String(size)]),
  ];
  for (let tries = 1; ; tries++) {
    const { status, stderr } = spawnSync('qemu-img', args, { cwd: folder, encoding: 'utf8' });
    if (status === 0) return;
    // It gives up where other programs take its time while it measures.
    if (!stderr.includes('CPU usage') || tries === TRIES) throw new Error(stderr);
  }
}
