/** The checker: intact and damaged images of every kind, judged by qemu-img. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { MemoryFile } from '../../src/image/image-file.ts';
import { checkBytes, checkImage, type CheckReport } from '../../src/image/qcow2/check.ts';
import { parseHeader, type Qcow2Header } from '../../src/image/qcow2/header.ts';
import { describeWithPeers } from '../support/peers.ts';
import { basePath, makeBases } from './bad-inputs/bases.ts';
import { PokedImage } from './bad-inputs/poked-image.ts';
import { BAD_INPUTS } from './bad-inputs/rows.ts';
import { KINDS, type Made, make, remove } from './check-images.ts';
import { compare, type QemuCheck, qemuCheck, type Verdict } from './check-qemu.ts';
import { damage } from './damage.ts';

const DAMAGED_IMAGES = Number(process.env['SLUICE_CHECK_IMAGES'] ?? 150);
const PARALLEL = 2;

describeWithPeers(['qemu-img', 'qemu-io'], 'the checker', () => {
  let images: Made[] = [];
  beforeAll(() => {
    images = KINDS.map(make);
  });
  afterAll(() => images.forEach(remove));

  it('finds nothing in an intact image, and counts what qemu-img counts', async () => {
    for (const { kind, folder, path, bytes } of images) {
      const header = parseHeader(bytes, path);
      const report = checkBytes(bytes, header);
      const { json } = await qemuCheck(folder, 'IMAGE', kind.encrypted);
      expect(report.findings, kind.name).toEqual([]);
      expect(numbersOf(report), kind.name).toEqual(numbersOfQemu(json!));
      expect(await checkImage(new MemoryFile(bytes), header), kind.name).toEqual(report);
    }
  });

  it('counts the corruptions and leaks of damaged images as qemu-img does', async () => {
    const tally = new Map<Verdict, number>();
    const wrong: string[] = [];
    const one = async (seed: number, name: string): Promise<void> => {
      const { bytes: intact, folder, kind } = images[seed % images.length]!;
      const { bytes, deeds } = damage(intact, seed);
      const header = headerOf(bytes);
      if (header === undefined) return;
      const report = checkBytes(bytes, header);
      writeFileSync(join(folder, name), bytes);
      const answer = await qemuCheck(folder, name, kind.encrypted);
      const verdict = compare(report, answer);
      tally.set(verdict, (tally.get(verdict) ?? 0) + 1);
      if (!verdict.startsWith('differs')) return;
      const details = [verdict, ...deeds, ...report.findings.slice(0, 8), answer.text];
      wrong.push(`seed ${seed} (${kind.name}): ${details.join('\n  ')}`);
    };
    const lanes = Array.from({ length: PARALLEL }, async (_, lane) => {
      for (let seed = lane; seed < DAMAGED_IMAGES; seed += PARALLEL)
        await one(seed, `lane-${lane}`);
    });
    await Promise.all(lanes);
    expect(wrong.join('\n')).toBe('');
    expect(tally.get('same')).toBeGreaterThan(DAMAGED_IMAGES / 2);
  }, 600_000);
});

describeWithPeers(['qemu-img', 'qemu-io'], 'the checker and the list of bad inputs', () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-qcow2-'));
  beforeAll(() => makeBases(folder));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it.each(BAD_INPUTS)('counts as qemu-img does, or says why not: $id, $title', async (row) => {
    const image = new PokedImage(readFileSync(basePath(folder, row.base)));
    row.poke(image);
    const header = headerOf(image.bytes);
    if (header === undefined) return;
    writeFileSync(join(folder, 'poked'), image.bytes);
    const report = checkBytes(image.bytes, header);
    const answer = await qemuCheck(folder, 'poked');
    // It also opens the other files that the image names; the check has no need of them.
    if (answer.json === undefined && answer.text.includes('Could not open')) return;
    expect(compare(report, answer)).not.toMatch(/^differs/);
  });
});

function headerOf(bytes: Uint8Array): Qcow2Header | undefined {
  try {
    return parseHeader(bytes, 'IMAGE');
  } catch {
    return undefined;
  }
}

function numbersOf(report: CheckReport): Record<string, number> {
  return {
    corruptions: report.corruptions,
    leaks: report.leaks,
    'check-errors': report.checkErrors,
    'image-end-offset': report.imageEndOffset,
    'total-clusters': report.totalClusters,
    'allocated-clusters': report.allocatedClusters,
    'fragmented-clusters': report.fragmentedClusters,
    'compressed-clusters': report.compressedClusters,
  };
}

/** Its numbers are absent where they are 0. */
function numbersOfQemu(json: QemuCheck): Record<string, number> {
  const keys = ['corruptions', 'leaks', 'check-errors', 'image-end-offset', 'total-clusters'];
  const clusters = ['allocated-clusters', 'fragmented-clusters', 'compressed-clusters'];
  return Object.fromEntries(
    [...keys, ...clusters].map((key) => [key, json[key as keyof QemuCheck] ?? 0]),
  );
}
