/** Statistics of a server as lines for people. */
import type { NbdClientStats, NbdExportStats, NbdServerStats, NbdTraffic } from '../node.ts';
import { formatBytes, formatCount } from './format.ts';
import { staleLines, type TlsReloads } from './tls-reloads.ts';

/** What `GET /stats` of a control socket answers; docs/metrics.md. */
export interface ControlStats {
  readonly sluice: string;
  readonly node: string;
  readonly pid: number;
  readonly residentBytes: number;
  readonly cpuSeconds: number;
  readonly healthy: boolean;
  /** Of a server with TLS. */
  readonly tlsReloads?: TlsReloads;
  readonly server: NbdServerStats;
}

/** More are counted only. */
const MAX_CLIENTS = 20;

/** Everything, a table for each export. */
export function statsText(stats: ControlStats): string {
  const { server } = stats;
  const lines = [
    `${server.uri}  pid ${stats.pid}, up ${duration(server.uptimeSeconds)}, ` +
      `${formatBytes(stats.residentBytes)}, cpu ${stats.cpuSeconds.toFixed(1)} s` +
      (stats.healthy ? '' : ', NOT HEALTHY'),
    connectionsLine(server),
    ...staleLines(stats.tlsReloads),
    ...server.exports.flatMap((found) => exportLines(found, server.latencyBoundsSeconds)),
    ...clientLines(server.clients),
  ];
  return `${lines.join('\n')}\n`;
}

function connectionsLine({ connections }: NbdServerStats): string {
  const { accepted, refused, negotiating, waiting, serving, limit, unserved, ended } = connections;
  const most = limit === 0 ? '' : ` of ${limit}`;
  const now = `${serving}${most} served, ${waiting} wait, ${negotiating} negotiate`;
  const reasons = Object.entries({ ...unserved }).map(([reason, count]) => `${reason} ${count}`);
  const ends = Object.entries(ended).map(([reason, count]) => `${reason} ${count}`);
  return [
    `connections: ${now}; ${accepted} accepted, ${refused} refused`,
    ...(ends.length === 0 ? [] : [`ended: ${ends.join(', ')}`]),
    ...(reasons.length === 0 ? [] : [`unserved: ${reasons.join(', ')}`]),
  ].join('; ');
}

const HEAD = ['command', 'requests', 'bytes', 'errors', 'mean', 'p50', 'p99', 'p99.9'];

function exportLines(found: NbdExportStats, bounds: readonly number[]): string[] {
  const { disk } = found;
  const rows = Object.entries(found.commands).flatMap(([command, counts]) => {
    const { requests, bytes, errors } = counts;
    if (requests === 0) return [];
    const { sumSeconds, counts: buckets } =
      found.latencies[command as keyof typeof found.latencies];
    const quantile = (part: number): string => quantileText(buckets, bounds, part);
    const failed = Object.entries(errors).map(([name, count]) => `${name} ${count}`);
    return [
      [
        command,
        formatCount(requests),
        bytes === 0 ? '-' : formatBytes(bytes),
        failed.join(' ') || '-',
        seconds(sumSeconds / requests),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
      ],
    ];
  });
  return [
    '',
    `export ${JSON.stringify(found.name)}: ${formatBytes(found.sizeBytes)}, ` +
      `${found.readOnly ? 'read-only' : 'read-write'}, ${traffic(found)}` +
      (found.latched ? '; LATCHED: a sync failed, every flush fails' : ''),
    ...(rows.length === 0 ? [] : table([HEAD, ...rows])),
    ...(disk === undefined
      ? []
      : [
          `  disk: ${formatCount(disk.commands)} commands, ${formatCount(disk.merged)} merged; ` +
            `${formatCount(disk.flushes.received)} flushes (${formatCount(disk.flushes.elided)} ` +
            `elided, ${formatCount(disk.flushes.coalesced)} coalesced); ` +
            `${formatCount(disk.syncs)} syncs, ${formatCount(disk.syncsFailed)} failed`,
        ]),
  ];
}

function clientLines(clients: readonly NbdClientStats[]): string[] {
  if (clients.length === 0) return [];
  const shown = clients.slice(0, MAX_CLIENTS).map((client) => {
    const where = client.address === '' ? 'unix' : client.address;
    const name = JSON.stringify(client.export);
    return `  ${client.id} ${where} ${name}: ${duration(client.seconds)}, ${traffic(client)}`;
  });
  const rest = clients.length - shown.length;
  return ['', 'clients:', ...shown, ...(rest > 0 ? [`  and ${rest} more`] : [])];
}

function traffic({ bytesReceived, bytesSent, inFlight }: NbdTraffic): string {
  const received = formatBytes(bytesReceived);
  return `${received} received, ${formatBytes(bytesSent)} sent, ${inFlight} in flight`;
}

/** Where the bucket ends in which the request at this part of all lies. */
function quantileText(counts: readonly number[], bounds: readonly number[], part: number): string {
  const wanted = counts.reduce((sum, count) => sum + count, 0) * part;
  let below = 0;
  const bucket = counts.findIndex((count) => (below += count) >= wanted && below > 0);
  const bound = bounds[bucket];
  return bound === undefined ? `>${seconds(bounds.at(-1) ?? 0)}` : `<${seconds(bound)}`;
}

function seconds(value: number): string {
  if (value < 1e-3) return `${Number((value * 1e6).toPrecision(3))} us`;
  return value < 1 ? `${Number((value * 1e3).toPrecision(3))} ms` : `${value.toFixed(1)} s`;
}

function duration(value: number): string {
  if (value < 120) return `${value.toFixed(0)} s`;
  return value < 7200 ? `${(value / 60).toFixed(0)} min` : `${(value / 3600).toFixed(1)} h`;
}

/** Columns: the first to the left, the others to the right. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = HEAD.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) => {
    const cells = row.map((cell, column) =>
      column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
    );
    return `  ${cells.join('  ')}`;
  });
}
