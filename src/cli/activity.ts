/** What a served disk is doing, in one line: now for the status line, in all for the summary. */
import type { DiskStats } from '../stats.ts';
import { formatBytes, formatCount } from './format.ts';

/** The counters at one moment. */
export interface Sample {
  readonly atMs: number;
  readonly stats: DiskStats;
}

/** What happened between two samples. */
interface Change {
  readonly seconds: number;
  readonly requests: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
}

/** Rates between two samples, then counts of all time: the long text, and the short one. */
export function statusTexts(before: Sample, now: Sample, clients: number): string[] {
  const { seconds, requests, bytesRead, bytesWritten } = changeOf(before, now);
  const rate = formatCount(requests / seconds);
  const [read, written] = [bytesRead, bytesWritten].map((bytes) => mebibytes(bytes / seconds));
  const { merged, flushes, syncs } = now.stats;
  const { received, elided, coalesced } = flushes;
  const users = counted(clients, 'client');
  const long = [
    `${rate} req/s`,
    `read ${read} MiB/s`,
    `write ${written} MiB/s`,
    ...savings(now.stats),
    users,
  ];
  const short = [
    `${rate}/s`,
    `r${read} w${written} MiB/s`,
    `${formatCount(merged)} merged`,
    `${[received, elided, coalesced].map(formatCount).join('/')} flush`,
    `${formatCount(syncs)} sync`,
    users,
  ];
  return [long.join(', '), short.join(' ')];
}

/** What was done from when clients could connect to the end. */
export function summaryText(start: Sample, end: Sample): string {
  const { seconds, requests, bytesRead, bytesWritten } = changeOf(start, end);
  return [
    `${counted(requests, 'request')} in ${seconds.toFixed(1)} s`,
    `read ${formatBytes(bytesRead)}`,
    `written ${formatBytes(bytesWritten)}`,
    ...savings(end.stats),
  ].join(', ');
}

function changeOf(from: Sample, to: Sample): Change {
  return {
    seconds: Math.max(to.atMs - from.atMs, 1) / 1000,
    requests: requestsOf(to.stats) - requestsOf(from.stats),
    bytesRead: to.stats.bytesRead - from.stats.bytesRead,
    bytesWritten: to.stats.bytesWritten - from.stats.bytesWritten,
  };
}

function savings({ merged, flushes, syncs }: DiskStats): string[] {
  const { received, elided, coalesced } = flushes;
  const saved = `${formatCount(elided)} elided, ${formatCount(coalesced)} coalesced`;
  return [
    `${formatCount(merged)} merged`,
    `${counted(received, 'flush', 'flushes')} (${saved})`,
    counted(syncs, 'sync'),
  ];
}

function requestsOf({ requests }: DiskStats): number {
  return Object.values(requests).reduce((sum, count) => sum + count, 0);
}

function mebibytes(bytes: number): string {
  const mebibytes = bytes / 2 ** 20;
  return mebibytes.toFixed(mebibytes < 100 ? 1 : 0);
}

function counted(count: number, one: string, many = `${one}s`): string {
  return `${formatCount(count)} ${count === 1 ? one : many}`;
}
