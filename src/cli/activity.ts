/** What a served disk is doing, in one line: now for the status line, in all for the summary. */
import type { DiskStats } from '../stats.ts';
import { formatBytes, formatCount } from './format.ts';

/** The counters at one moment. */
export interface Sample {
  readonly atMs: number;
  readonly stats: DiskStats;
}

/** Rates between two samples, then counts since the start; the longer text first. */
export function statusTexts(before: Sample, now: Sample, clients: number): string[] {
  const seconds = Math.max(now.atMs - before.atMs, 1) / 1000;
  const rate = (count: (stats: DiskStats) => number): number =>
    (count(now.stats) - count(before.stats)) / seconds;
  const requests = formatCount(rate(requestsOf));
  const read = mebibytes(rate((stats) => stats.bytesRead));
  const written = mebibytes(rate((stats) => stats.bytesWritten));
  const { merged, flushes, syncs } = now.stats;
  const { received, elided, coalesced } = flushes;
  const users = `${clients} ${clients === 1 ? 'client' : 'clients'}`;
  return [
    [
      `${requests} req/s`,
      `read ${read} MiB/s`,
      `write ${written} MiB/s`,
      ...savings(now.stats),
      users,
    ].join(', '),
    [
      `${requests}/s`,
      `r${read} w${written} MiB/s`,
      `${formatCount(merged)} merged`,
      `${[received, elided, coalesced].map(formatCount).join('/')} flush`,
      `${formatCount(syncs)} sync`,
      users,
    ].join(' '),
  ];
}

/** Everything since the disk was opened. */
export function summaryText(stats: DiskStats, seconds: number): string {
  return [
    `${formatCount(requestsOf(stats))} requests in ${seconds.toFixed(1)} s`,
    `read ${formatBytes(stats.bytesRead)}`,
    `written ${formatBytes(stats.bytesWritten)}`,
    ...savings(stats),
  ].join(', ');
}

function savings({ merged, flushes, syncs }: DiskStats): string[] {
  const { received, elided, coalesced } = flushes;
  return [
    `${formatCount(merged)} merged`,
    `${formatCount(received)} flushes (${formatCount(elided)} elided, ` +
      `${formatCount(coalesced)} coalesced)`,
    `${formatCount(syncs)} syncs`,
  ];
}

function requestsOf({ requests }: DiskStats): number {
  return Object.values(requests).reduce((sum, count) => sum + count, 0);
}

function mebibytes(bytes: number): string {
  const mebibytes = bytes / 2 ** 20;
  return mebibytes.toFixed(mebibytes < 100 ? 1 : 0);
}
