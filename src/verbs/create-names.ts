/** The other files of a new image: the backing file, and names that must not be one file's. */
import { realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';

import { invalid } from '../arguments.ts';
import { hasProtocol, type NamedFilePolicy, resolveNamed } from '../image/chain.ts';
import { Layers } from '../image/layers.ts';

/** How a backing file is opened. */
export interface BackingQuestion {
  readonly backing?: NamedFilePolicy | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The size of the disk that a backing file has, and its path. It and those below it are opened. */
export async function backingBytes(
  imagePath: string,
  { name, format }: { readonly name: string; readonly format: 'raw' | 'qcow2' },
  { backing = 'deny', signal }: BackingQuestion,
): Promise<{ readonly sizeBytes: number; readonly path: string }> {
  const path = await resolveNamed('backing', name, imagePath, backing);
  await using layers = await Layers.open(path, { format, backing, signal });
  return { sizeBytes: layers.sizeBytes, path };
}

/** Where an image will look for a file that it names. */
export function pathBeside(imagePath: string, what: 'backing' | 'dataFile', name: string): string {
  if (!hasProtocol(name)) return resolve(dirname(imagePath), name);
  throw invalid(`${what}.name is a path, and ${JSON.stringify(name)} begins with a protocol`);
}

/** Refuses names of one file for two: making one of them would destroy the other. */
export async function refuseSameFile(
  imagePath: string,
  names: { readonly backing?: string | undefined; readonly data?: string | undefined },
): Promise<void> {
  const image = await realName(imagePath);
  const backing = names.backing === undefined ? undefined : await realName(names.backing);
  const data = names.data === undefined ? undefined : await realName(names.data);
  const told = JSON.stringify(imagePath);
  if (backing === image) throw invalid(`the image and its backing file are both ${told}`);
  if (data === image) throw invalid(`the image and its data file are both ${told}`);
  if (data === undefined || data !== backing) return;
  throw invalid(`the backing file and the data file are both ${JSON.stringify(names.data)}`);
}

/** After links are followed; a file that is not there yet is in its folder. */
async function realName(path: string): Promise<string> {
  return realpath(path).catch(async () => {
    const folder = await realpath(dirname(path)).catch(() => dirname(path));
    return join(folder, basename(path));
  });
}
