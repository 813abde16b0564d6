/** What a served disk is doing, in one line: now for the status line, in all for the summary. */
import type { DiskStats } from '../stats.ts';
import { formatBytes, formatCount } from './format.ts';

/** What is told of the counters of disks. */
export interface Counts {
  readonly requests: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly merged: number;
  readonly syncs: number;
  readonly received: number;
  readonly elided: number;
  readonly coalesced: number;
}

/** The counters at one moment. */
export interface Sample {
  readonly atMs: number;
  readonly counts: Counts;
}

/** Disks counted as one. */
export function sumOf(disks: readonly DiskStats[]): Counts {
  const sum = (count: (disk: DiskStats) => number): number =>
    disks.reduce((total, disk) => total + count(disk), 0);
  return {
    requests: sum(requestsOf),
    bytesRead: sum(({ bytesRead }) => bytesRead),
    bytesWritten: sum(({ bytesWritten }) => bytesWritten),
    merged: sum(({ merged }) => merged),
    syncs: sum(({ syncs }) => syncs),
    received: sum(({ flushes }) => flushes.received),
    elided: sum(({ flushes }) => flushes.elided),
    coalesced: sum(({ flushes }) => flushes.coalesced),
  };
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
  const { merged, received, elided, coalesced, syncs } = now.counts;
  const users = counted(clients, 'client');
  const long = [
    `${rate} req/s`,
    `read ${read} MiB/s`,
    `write ${written} MiB/s`,
    ...savings(now.counts),
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
    ...savings(end.counts),
  ].join(', ');
}

function changeOf(from: Sample, to: Sample): Change {
  return {
    seconds: Math.max(to.atMs - from.atMs, 1) / 1000,
    requests: to.counts.requests - from.counts.requests,
    bytesRead: to.counts.bytesRead - from.counts.bytesRead,
    bytesWritten: to.counts.bytesWritten - from.counts.bytesWritten,
  };
}

function savings({ merged, received, elided, coalesced, syncs }: Counts): string[] {
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
