/** Files that a guest writes and syncs one by one, and which of them are there after a crash. */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';

import { type Folder, run, succeed } from '../cli/sluice.ts';
import { systemPath } from '../e2e/image.ts';
import type { Stored } from './images.ts';

const LINES_MOST = 2000;
const ACKNOWLEDGED = /^ACK (?<name>\S+)\r?\n/gm;
/** e2fsck has mended something that is no damage: the journal was played. */
const E2FSCK_MENDED = 1;

/** Without one, Linux sends no flush. */
export type GuestCache = 'as it is' | 'write through';

/**
 * Writes files for ever, by bash alone; each is acknowledged when it is synced.
 * @param cache how the guest sets its write cache
 */
export const writerOf = (round: number, cache: GuestCache = 'as it is'): string => `
mount -t ext4 /dev/vda /run/disk
${cache === 'as it is' ? '' : `echo '${cache}' > /sys/block/vda/cache_type`}
for ((n = 1; ; n++)); do
  name=${round}-$n
  {
    eval "printf '$name\\n%.0s' {1..$((RANDOM % ${LINES_MOST} + 1))}"
    echo end
  } > /run/disk/$name
  sync /run/disk/$name
  echo "ACK $name"
done
`;

/** The names of the files that a guest has acknowledged. */
export function acknowledged(shown: string): string[] {
  return Array.from(shown.matchAll(ACKNOWLEDGED), ({ groups }) => groups?.['name'] ?? '');
}

/** Those of `names` that a file system lacks, or has with other contents, after its recovery. */
export async function lostFiles(
  folder: Folder,
  { image, format }: Stored,
  names: readonly string[],
): Promise<string[]> {
  const [copy, tree] = [folder.file('copy.img'), folder.file('tree')];
  await succeed('qemu-img', ['convert', '-f', format, '-O', 'raw', image, copy]);
  const { code, stdout } = await run('e2fsck', ['-fp', copy], { env: systemPath() });
  if (code === null || code > E2FSCK_MENDED) throw new Error(`not to be mended: ${stdout}`);
  await mkdir(tree);
  await succeed('debugfs', ['-R', `rdump / ${tree}`, copy], { env: systemPath() });
  const found = new Set(await readdir(tree));
  const lost: string[] = [];
  for (const name of names) {
    const isRight = found.has(name) && isWhole(name, await readFile(join(tree, name), 'latin1'));
    if (!isRight) lost.push(name);
  }
  await rm(tree, { recursive: true });
  return lost;
}

/** Lines with the name, then one that says that it is the last. */
function isWhole(name: string, text: string): boolean {
  const lines = text.split('\n');
  if (lines.pop() !== '' || lines.pop() !== 'end') return false;
  return lines.length > 0 && lines.every((line) => line === name);
}
