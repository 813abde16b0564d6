/** Folders and files for the tests of images. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect } from 'vitest';

import type { ErrorCode } from '../../src/errors.ts';
import type { BadInput } from './bad-inputs/rows.ts';
import { BAD_INPUTS } from './bad-inputs/rows.ts';

/** A folder that is removed after the tests of the file. */
export function imageFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-image-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A file with these bytes; answers its path. */
export function writeImage(folder: string, name: string, bytes: Uint8Array | string): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

/** The rows of the table of bad inputs with these ids. */
export function badInputs(first: number, last: number): BadInput[] {
  return BAD_INPUTS.filter(({ id }) => Number(id.slice(1)) >= first && Number(id.slice(1)) <= last);
}

/** Rejects with a SluiceError of this code, whose message matches. */
export async function expectRefusal(
  work: Promise<unknown>,
  code: ErrorCode,
  message: RegExp,
): Promise<void> {
  const error: unknown = await work.then(
    () => expect.unreachable('it was not refused'),
    (cause: unknown) => cause,
  );
  expect(error).toMatchObject({ name: 'SluiceError', code });
  expect((error as Error).message).toMatch(message);
}
