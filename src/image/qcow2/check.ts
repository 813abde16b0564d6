/**
 * The consistency check of a qcow2 image: every reference to a cluster is counted and compared
 * with the refcounts, and every table is looked at for what it must not say.
 *
 * C1 A cluster with more references than its refcount is a corruption, one with fewer is a leak.
 * C2 What is counted is counted as `qemu-img check` does, so the numbers can be compared; what is
 *    found beside that is one of the kinds that test/image/check.test.ts lists.
 * C3 Time and memory are bounded by the size of the file, whatever the image claims.
 */

import type { ImageFile } from '../image-file.ts';
import { USED_HEADER } from './check-counts.ts';
import type { FindingCounts } from './check-findings.ts';
import {
  compareRefcounts,
  loadRefcounts,
  referToRefcountBlocks,
  referToRefcountTable,
} from './check-refcounts.ts';
import { Scan, type Steps } from './check-scan.ts';
import { referToLuks, walkBitmaps, walkSnapshots } from './check-tables.ts';
import { walkL1, walkL2Tables } from './check-walk.ts';
import type { Qcow2Header } from './header.ts';

/** What a check found; numbers mean what they mean in the JSON of `qemu-img check`. */
export interface CheckReport {
  /** What is wrong and can lose data. */
  readonly corruptions: number;
  /** Clusters, or references too many of clusters, that nothing refers to: lost space only. */
  readonly leaks: number;
  /** What could not be looked at. */
  readonly checkErrors: number;
  /** Texts for people, at most a thousand. */
  readonly findings: readonly string[];
  /** How often each kind was found. */
  readonly counts: FindingCounts;
  /** Where the last cluster in use ends. */
  readonly imageEndOffset: number;
  /** Of the disk. */
  readonly totalClusters: number;
  readonly allocatedClusters: number;
  readonly fragmentedClusters: number;
  readonly compressedClusters: number;
}

/** How a check may be ended before its time. */
export interface CheckOptions {
  /** Rejects with its reason when aborted. */
  readonly signal?: AbortSignal;
}

/** Checks an image file; nothing is written. Rejects when the file cannot be read. */
export async function checkImage(
  file: ImageFile,
  header: Qcow2Header,
  options: CheckOptions = {},
): Promise<CheckReport> {
  const scan = new Scan(header, file.sizeBytes);
  return readFrom(file, check(scan), options.signal);
}

/** Checks an image in memory. */
export function checkBytes(bytes: Uint8Array, header: Qcow2Header): CheckReport {
  const steps = check(new Scan(header, bytes.length));
  let step = steps.next();
  while (!step.done) {
    const { offset, length } = step.value;
    step = steps.next(bytes.subarray(offset, offset + length));
  }
  return step.value;
}

/** Runs steps to their end with the bytes of a file. */
export async function readFrom<T>(
  file: ImageFile,
  steps: Steps<T>,
  signal?: AbortSignal,
): Promise<T> {
  let step = steps.next();
  while (!step.done) {
    signal?.throwIfAborted();
    step = steps.next(await file.read(step.value.offset, step.value.length));
  }
  return step.value;
}

/** The whole check; afterwards the scan knows every reference (repair.ts goes on from there). */
export function* check(scan: Scan): Steps<CheckReport> {
  yield* countReferences(scan);
  referToRefcountTable(scan);
  referToRefcountBlocks(scan);
  return report(scan, compareRefcounts(scan));
}

/** Loads the refcounts and counts all references but those to what holds the refcounts. */
export function* countReferences(scan: Scan): Steps<void> {
  const { header, counts } = scan;
  yield* loadRefcounts(scan);
  counts.refer(0, header.clusterBytes, USED_HEADER);
  yield* walkL1(scan, header.l1Offset, header.l1Entries, true);
  yield* walkSnapshots(scan);
  yield* walkL2Tables(scan);
  referToLuks(scan);
  yield* walkBitmaps(scan);
}

function report(scan: Scan, imageEndOffset: number): CheckReport {
  const { header, findings } = scan;
  return {
    corruptions: findings.corruptions,
    leaks: findings.leaks,
    checkErrors: findings.checkErrors,
    findings: findings.texts,
    counts: findings.counts,
    imageEndOffset,
    totalClusters: Math.ceil(header.sizeBytes / header.clusterBytes),
    allocatedClusters: scan.allocatedClusters,
    fragmentedClusters: scan.fragmentedClusters,
    compressedClusters: scan.compressedClusters,
  };
}
