/** Images that are changed while nobody has them open: by us, and by qemu-img on a copy. */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';

import { MemoryFile } from '../../src/image/image-file.ts';
import { checkBytes } from '../../src/image/qcow2/check.ts';
import { parseHeader, type Qcow2Header } from '../../src/image/qcow2/header.ts';
import { Random } from '../engine/random.ts';
import { type CutState, LoggedFile } from './logged-file.ts';

/** The image that is changed; its twin is changed by qemu-img. */
export const IMAGE = 'ours.qcow2';
const TWIN = 'theirs.qcow2';
const SEED = 20_261_122;
/** Of one program. */
const TIMEOUT_MS = 20_000;

/** What changes an image in a file of a folder. */
export type Change = (file: LoggedFile, header: Qcow2Header) => Promise<Qcow2Header>;

/** Runs a program of QEMU's; answers how it ended. */
export function run(folder: string, program: string, ...args: readonly string[]): number {
  return spawnSync(program, args, { cwd: folder, stdio: 'ignore' }).status ?? -1;
}

/** An image that qemu-img makes, and qemu-io and qemu-img go on with. */
export function makeImage(
  folder: string,
  create: readonly string[],
  ...commands: readonly (readonly string[])[]
): void {
  const all = [['qemu-img', 'create', '-q', '-f', 'qcow2', ...create], ...commands];
  for (const [program = '', ...args] of all) {
    execFileSync(program, args, { cwd: folder, stdio: 'pipe' });
  }
}

/** Writes of qemu-io. */
export function io(...writes: readonly string[]): string[] {
  return ['qemu-io', '-f', 'qcow2', ...writes.flatMap((one) => ['-c', one]), IMAGE];
}

/** The image in a folder, to be changed; the twin is a copy of it. */
export function load(folder: string, failing = -1): { memory: MemoryFile; log: LoggedFile } {
  copyFileSync(join(folder, IMAGE), join(folder, TWIN));
  const memory = new MemoryFile(new Uint8Array(readFileSync(join(folder, IMAGE))));
  return { memory, log: new LoggedFile(memory, failing) };
}

/** Changes the image; the answer is the header that it has then. Returns what a cut may leave. */
export async function change(
  folder: string,
  work: Change,
): Promise<{ start: Uint8Array; end: Uint8Array; states: Iterable<CutState> }> {
  const { memory, log } = load(folder);
  const start = memory.bytes.slice();
  const answer = await work(log, parseHeader(start, IMAGE));
  expect(answer).toEqual(parseHeader(memory.bytes, IMAGE));
  expect(log.unsynced).toBe(0);
  writeFileSync(join(folder, IMAGE), memory.bytes);
  const states = log.statesAfterCuts(start, new Random(SEED));
  return { start, end: memory.bytes, states };
}

/** Does the same to the twin; both are the same then, as qemu-img sees them. */
export function expectSameByQemu(
  folder: string,
  command: readonly string[],
  options: { readonly isEncrypted?: boolean; readonly but?: readonly string[] } = {},
): void {
  const args = command.map((word) => (word === IMAGE ? TWIN : word));
  const spawned = spawnSync('qemu-img', args, { cwd: folder, timeout: TIMEOUT_MS });
  expect(spawned.status, args.join(' ')).toBe(0);
  const [ours, theirs] = [info(folder, IMAGE), info(folder, TWIN)];
  for (const key of ['filename', 'actual-size', ...(options.but ?? [])]) {
    delete ours[key];
    delete theirs[key];
  }
  expect(ours).toEqual(theirs);
  expect(run(folder, 'qemu-img', 'check', '-q', '-f', 'qcow2', IMAGE)).toBe(0);
  if (options.isEncrypted === true) return;
  expect(run(folder, 'qemu-img', 'compare', '-q', IMAGE, TWIN)).toBe(0);
}

function info(folder: string, image: string): Record<string, unknown> {
  const args = ['info', '--output=json', image];
  const said = execFileSync('qemu-img', args, { cwd: folder, encoding: 'utf8', stdio: 'pipe' });
  return JSON.parse(said) as Record<string, unknown>;
}

/** An image after a cut, or a failure, has lost nothing but room. */
export function expectWhole(bytes: Uint8Array, where: string): Qcow2Header {
  const header = parseHeader(bytes, IMAGE);
  const { corruptions, checkErrors, findings } = checkBytes(bytes, header);
  const said = findings.filter((text) => !text.includes('fewer')).slice(0, 3);
  expect({ corruptions, checkErrors, said }, where).toMatchObject({
    corruptions: 0,
    checkErrors: 0,
  });
  return header;
}

/** Lets every write fail, one after another; calls back with what each failure leaves. */
export async function failEveryWrite(
  folder: string,
  work: Change,
  look: (bytes: Uint8Array, failing: number) => unknown,
): Promise<number> {
  for (let failing = 1; ; failing++) {
    const { memory, log } = load(folder, failing);
    const failure = await work(log, parseHeader(memory.bytes, IMAGE)).then(
      () => undefined,
      (error: unknown) => error,
    );
    if (failure === undefined) return failing - 1;
    expect((failure as Error).message).toContain('no luck');
    await look(memory.bytes, failing);
  }
}
