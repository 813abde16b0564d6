// Zeroes on a cluster that a snapshot has too give its place up (Z2): an entry that kept it would
// invite others to write there.

import { rmSync, writeFileSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';

import { MemoryFile } from '../../../src/image/image-file.ts';
import { checkBytes } from '../../../src/image/qcow2/check.ts';
import { tableExtents } from '../../../src/image/qcow2/extents.ts';
import { parseHeader } from '../../../src/image/qcow2/header.ts';
import { openDisk } from '../../../src/open-disk.ts';
import { buildImage } from '../../../src/testing/qcow2/image-builder.ts';
import { SHAPES } from '../../../src/testing/qcow2/plan.ts';
import { BUILDS } from '../../support/engine.ts';

const CLUSTER_BYTES = 512;
const SHARED = SHAPES.find(({ name }) => name === 'snapshot')!;
const folder = mkdtempSync(join(tmpdir(), 'sluice-zeroes-'));
afterAll(() => rmSync(folder, { recursive: true }));

it('zeroes on a shared cluster leave it to the snapshot', async () => {
  const path = join(folder, 'a.qcow2');
  const cluster = SHARED.clusters.indexOf('d');
  writeFileSync(path, (await buildImage(SHARED)).image);
  const { module } = BUILDS[0]!;
  const disk = await openDisk(path, { format: 'qcow2', writable: true, module });
  await disk.writeZeroes(cluster * CLUSTER_BYTES, CLUSTER_BYTES);
  await disk.close();
  const bytes = readFileSync(path);
  const header = parseHeader(bytes, path);
  const from = cluster * CLUSTER_BYTES;
  const extents = tableExtents(new MemoryFile(bytes), header, path, from, from + CLUSTER_BYTES);
  const { value } = await extents.next();
  expect(value).toEqual({ start: from, length: CLUSTER_BYTES, kind: 'zero' });
  expect(checkBytes(bytes, header)).toMatchObject({ corruptions: 0, leaks: 0 });
});
