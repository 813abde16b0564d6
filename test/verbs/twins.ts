/** Two copies of an image: one for qemu-img, one for us. */
import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect } from 'vitest';

import { sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';

/** An image in a folder, twice. */
export interface Twins {
  readonly folder: string;
  readonly theirs: string;
  readonly ours: string;
}

/** The arguments of a command for one of the two; `@` is its image. */
export type Args = readonly string[];

/** Commands of qemu-io, on one image. */
export function write(path: string, ...commands: readonly string[]): void {
  const format = path.endsWith('.raw') ? 'raw' : 'qcow2';
  qemu('.', 'qemu-io', ['-f', format, ...commands.flatMap((one) => ['-c', one]), path]);
}

/** A new image, made by qemu-img with these arguments behind `create -q -f qcow2`. */
export function create(folder: string, name: string, ...args: readonly string[]): string {
  const format = name.endsWith('.raw') ? 'raw' : 'qcow2';
  qemu(folder, 'qemu-img', ['create', '-q', '-f', format, ...withName(args, name)]);
  return join(folder, name);
}

function withName(args: readonly string[], name: string): string[] {
  const size = args.at(-1);
  return size !== undefined && /^\d+[kMG]?$/.test(size)
    ? [...args.slice(0, -1), name, size]
    : [...args, name];
}

/** Copies of an image beside it. */
export function twinsOf(path: string): Twins {
  const [theirs, ours] = ['theirs', 'ours'].map((who) => {
    const copy = path.replace(/(\.\w+)$/, `-${who}$1`);
    copySparse(path, copy);
    return copy;
  });
  return { folder: join(path, '..'), theirs: theirs!, ours: ours! };
}

/** A copy with the holes of the file. */
export function copySparse(path: string, copy: string): void {
  execFileSync('cp', ['--sparse=auto', path, copy]);
}

/** Runs a command on both, in their folder; answers the exit codes, and what we have said. */
export async function both(twins: Twins, args: Args, tail: Args = []) {
  const { folder, theirs, ours } = twins;
  const argsFor = (path: string): string[] => [...args, path, ...tail];
  const expected = spawnSync('qemu-img', argsFor(theirs), { cwd: folder, encoding: 'utf8' });
  const found = await sluice(argsFor(ours), { cwd: folder });
  return { codes: [expected.status, found.code], expected, found };
}

/** The command works with both. */
export async function bothDo(twins: Twins, args: Args, tail: Args = []): Promise<void> {
  const { codes, expected, found } = await both(twins, args, tail);
  expect(codes, `${args.join(' ')}: ${expected.stderr}${found.stderr}`).toEqual([0, 0]);
}

/** What qemu-img says of an image, but for its name, its place on the host, and times. */
export function told(path: string): object {
  const text = qemu('.', 'qemu-img', ['info', '-U', '--output=json', path]);
  const { filename: _, 'actual-size': __, ...rest } = JSON.parse(text) as Record<string, unknown>;
  const cut = JSON.stringify(rest, (key, value: unknown) =>
    /^(date-n?sec|vm-clock-n?sec|icount|full-backing-filename)$/.test(key) ? undefined : value,
  );
  return JSON.parse(cut) as object;
}

/** The ranges of the disk that qemu-img tells, without their places in files. */
export function mapped(path: string): object[] {
  const text = qemu('.', 'qemu-img', ['map', '-U', '--output=json', path]);
  const isPlace = (key: string): boolean => key === 'offset';
  return JSON.parse(text, (key, value: unknown) => (isPlace(key) ? undefined : value)) as object[];
}

/** `qemu-img check` finds nothing; leaks where they may be. */
export function expectSound(path: string, mayLeak = false): void {
  const { status, stdout } = spawnSync('qemu-img', ['check', path], { encoding: 'utf8' });
  expect(mayLeak ? [0, 3] : [0], stdout).toContain(status);
}

/** Both disks read the same. */
export function expectSameDisk(one: string, other: string): void {
  const { status, stdout, stderr } = spawnSync('qemu-img', ['compare', one, other], {
    encoding: 'utf8',
  });
  expect(status, stdout + stderr).toBe(0);
}
