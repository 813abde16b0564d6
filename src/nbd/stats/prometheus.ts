/**
 * Statistics of a server in the text format of Prometheus. docs/metrics.md lists the metrics.
 * prometheus.io, "Exposition formats", "Text-based format".
 */
import type { DiskStats, TableStats } from '../../stats.ts';
import { COMMANDS } from '../commands.ts';
import type { NbdEndReason, NbdExportStats, NbdServerStats } from './types.ts';

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [labels: Labels, value: number];

/** All samples of one metric: they must stand together, behind its HELP and TYPE. */
export interface Metric {
  readonly name: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  /** Names of a histogram's samples have one of its suffixes. */
  readonly samples: readonly (readonly [labels: Labels, value: number, suffix?: string])[];
}

const BEFORE: readonly NbdEndReason[] = [
  'abort',
  'gone',
  'protocol',
  'timeout',
  'evicted',
  'crowded',
  'tls',
  'shutdown',
];
const AFTER: readonly NbdEndReason[] = [
  'disconnect',
  'gone',
  'protocol',
  'stalled',
  'idle',
  'shutdown',
];

/**
 * Statistics of a server, as `stats()` has them, in the text format of Prometheus, version 0.0.4.
 * Lines end with a line feed; units are seconds and bytes.
 */
export function toPrometheus(stats: NbdServerStats): string {
  return metricsText([
    ...connectionMetrics(stats),
    ...trafficMetrics(stats.exports),
    ...requestMetrics(stats),
    ...diskMetrics(stats.exports),
  ]);
}

/** Metrics as text. */
export function metricsText(metrics: readonly Metric[]): string {
  return metrics.map(metricText).join('');
}

function metricText({ name, type, help, samples }: Metric): string {
  const lines = samples.map(
    ([labels, value, suffix = '']) => `${name}${suffix}${labelsText(labels)} ${number(value)}\n`,
  );
  return `# HELP ${name} ${escapeHelp(help)}\n# TYPE ${name} ${type}\n${lines.join('')}`;
}

function labelsText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escapeLabel(value)}"`);
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

function escapeLabel(value: string): string {
  return escapeHelp(value).replaceAll('"', String.raw`\"`);
}

function escapeHelp(text: string): string {
  return text.replaceAll('\\', String.raw`\\`).replaceAll('\n', String.raw`\n`);
}

function number(value: number): string {
  return value === Infinity ? '+Inf' : String(value);
}

function connectionMetrics({ connections, uptimeSeconds }: NbdServerStats): Metric[] {
  const { accepted, refused, negotiating, waiting, serving, limit } = connections;
  const byReason = (
    reasons: readonly NbdEndReason[],
    counts: Partial<Record<NbdEndReason, number>>,
  ): Sample[] => reasons.map((reason) => [{ reason }, counts[reason] ?? 0]);
  return [
    gauge('sluice_nbd_uptime_seconds', 'Since the server began to listen.', [[{}, uptimeSeconds]]),
    counter('sluice_nbd_connections_accepted_total', 'Connections accepted.', [[{}, accepted]]),
    counter(
      'sluice_nbd_connections_refused_total',
      'Connections that the system would not let the server accept.',
      [[{}, refused]],
    ),
    counter(
      'sluice_nbd_connections_unserved_total',
      'Connections that ended before transmission.',
      byReason(BEFORE, connections.unserved),
    ),
    counter(
      'sluice_nbd_connections_ended_total',
      'Connections that ended after transmission had begun.',
      byReason(AFTER, connections.ended),
    ),
    gauge('sluice_nbd_connections', 'Open connections; waiting ones wait for a client slot.', [
      [{ state: 'negotiating' }, negotiating],
      [{ state: 'waiting' }, waiting],
      [{ state: 'serving' }, serving],
    ]),
    gauge('sluice_nbd_clients_limit', 'Clients served at once, +Inf without a limit.', [
      [{}, limit === 0 ? Infinity : limit],
    ]),
  ];
}

function trafficMetrics(exports: readonly NbdExportStats[]): Metric[] {
  const each = of(exports);
  return [
    gauge(
      'sluice_nbd_export_size_bytes',
      'Capacity.',
      each((found) => found.sizeBytes),
    ),
    gauge(
      'sluice_nbd_clients',
      'Clients in transmission.',
      each((found) => found.clients),
    ),
    gauge(
      'sluice_nbd_requests_in_flight',
      'Requests without a sent reply.',
      each((found) => found.inFlight),
    ),
    counter(
      'sluice_nbd_received_bytes_total',
      'Bytes received in transmission, headers included.',
      each((found) => found.bytesReceived),
    ),
    counter(
      'sluice_nbd_sent_bytes_total',
      'Bytes sent in transmission, headers included.',
      each((found) => found.bytesSent),
    ),
  ];
}

function requestMetrics({ exports, latencyBoundsSeconds }: NbdServerStats): Metric[] {
  const each = (
    value: (found: NbdExportStats, command: (typeof COMMANDS)[number]) => number,
    commands: readonly (typeof COMMANDS)[number][] = COMMANDS,
  ): Sample[] =>
    exports.flatMap((found) =>
      commands.map((command): Sample => [{ export: found.name, command }, value(found, command)]),
    );
  const errors = exports.flatMap((found) =>
    COMMANDS.flatMap((command) =>
      Object.entries(found.commands[command].errors).map(([error, count]): Sample => [
        { export: found.name, command, error },
        count,
      ]),
    ),
  );
  return [
    counter(
      'sluice_nbd_requests_total',
      'Answered requests, failed ones included.',
      each((found, command) => found.commands[command].requests),
    ),
    counter(
      'sluice_nbd_request_bytes_total',
      'Bytes that good requests asked for.',
      each(
        (found, command) => found.commands[command].bytes,
        ['read', 'write', 'trim', 'write_zeroes'],
      ),
    ),
    counter('sluice_nbd_errors_total', 'Requests that failed, by error of NBD.', errors),
    {
      name: 'sluice_nbd_request_duration_seconds',
      type: 'histogram',
      help: 'From the header of a request to its reply.',
      samples: exports.flatMap((found) => histograms(found, latencyBoundsSeconds)),
    },
  ];
}

function histograms(found: NbdExportStats, bounds: readonly number[]): Metric['samples'] {
  return COMMANDS.flatMap((command) => {
    const { counts, sumSeconds } = found.latencies[command];
    const labels = { export: found.name, command };
    let total = 0;
    const buckets = counts.map((count, index): Metric['samples'][number] => {
      total += count;
      return [{ ...labels, le: number(bounds[index] ?? Infinity) }, total, '_bucket'];
    });
    buckets.push([labels, sumSeconds, '_sum'], [labels, total, '_count']);
    return buckets;
  });
}

type Counters<T> = readonly (readonly [name: string, help: string, value: (stats: T) => number])[];

const DISK_COUNTERS: Counters<DiskStats> = [
  ['read_bytes_total', 'Bytes read by requests.', (disk) => disk.bytesRead],
  ['written_bytes_total', 'Bytes written by requests.', (disk) => disk.bytesWritten],
  ['commands_total', 'Data commands handed to the host.', (disk) => disk.commands],
  ['merged_requests_total', "Requests in another one's command.", (disk) => disk.merged],
  ['superseded_writes_total', 'Writes that a later one covered.', (disk) => disk.superseded],
  ['expired_runs_total', 'Runs chosen because their time was up.', (disk) => disk.expired],
  ['ordered_requests_total', 'Requests that waited for another.', (disk) => disk.ordered],
  ['reissued_parts_total', 'Parts of failed commands sent again.', (disk) => disk.reissued],
  ['aborted_requests_total', 'Requests ended by a reset.', (disk) => disk.aborted],
  ['flushes_elided_total', 'Flushes with nothing to do.', (disk) => disk.flushes.elided],
  [
    'flushes_coalesced_total',
    "Flushes and stable writes that another one's sync served.",
    (disk) => disk.flushes.coalesced,
  ],
  ['barriers_total', 'Barriers received.', (disk) => disk.barriers.received],
  ['barrier_flushes_total', 'Barriers that had to flush.', (disk) => disk.barriers.flushed],
  ['syncs_total', 'Syncs handed to the host.', (disk) => disk.syncs],
  ['sync_failures_total', 'Syncs that failed.', (disk) => disk.syncsFailed],
  ['syncs_delayed_total', 'Syncs that waited for companions.', (disk) => disk.syncsDelayed],
  ['group_commits_total', 'Stable writes that shared a sync.', (disk) => disk.groupCommits],
];

const TABLE_COUNTERS: Counters<TableStats> = [
  ['l2_hits_total', 'Lookups that found their slice in memory.', (tables) => tables.l2Hits],
  ['l2_loads_total', 'Slices of L2 tables read.', (tables) => tables.l2Loads],
  ['refcount_loads_total', 'Slices of refcount blocks read.', (tables) => tables.refcountLoads],
  ['table_writes_total', 'Pieces of tables written back.', (tables) => tables.writes],
  ['writeback_cycles_total', 'Cycles of writing back.', (tables) => tables.cycles],
  ['fences_total', 'Cycles that made data stable first.', (tables) => tables.fences],
  ['reserves_total', 'Times that clusters were reserved.', (tables) => tables.reserves],
  ['allocated_clusters_total', 'Clusters allocated.', (tables) => tables.allocatedClusters],
  ['freed_clusters_total', 'Clusters freed.', (tables) => tables.freedClusters],
  ['copied_bytes_total', 'Bytes copied or zeroed around data.', (tables) => tables.copiedBytes],
];

const OPERATIONS = [
  ['read', 'read'],
  ['write', 'write'],
  ['write_zeroes', 'writeZeroes'],
  ['discard', 'discard'],
  ['block_status', 'blockStatus'],
  ['flush', 'flush'],
  ['refused', 'refused'],
] as const;

function diskMetrics(exports: readonly NbdExportStats[]): Metric[] {
  const disks = exports.flatMap(({ name, disk }) => (disk === undefined ? [] : { name, disk }));
  const tables = disks.flatMap(({ name, disk: { tables } }) =>
    tables === undefined ? [] : { name, tables },
  );
  const each = of(disks);
  const requests = disks.flatMap(({ name, disk }) =>
    OPERATIONS.map(([operation, key]): Sample => [{ export: name, operation }, disk.requests[key]]),
  );
  const latched = of(exports)(({ latched }) => Number(latched));
  return [
    gauge('sluice_disk_latched', '1 once a sync has failed: every flush fails.', latched),
    counter('sluice_disk_requests_total', 'Requests taken by the engine.', requests),
    ...DISK_COUNTERS.map(([name, help, value]) =>
      counter(
        `sluice_disk_${name}`,
        help,
        each(({ disk }) => value(disk)),
      ),
    ),
    ...(tables.length === 0 ? [] : tableMetrics(tables)),
  ];
}

function tableMetrics(
  found: readonly { readonly name: string; readonly tables: TableStats }[],
): Metric[] {
  const each = of(found);
  const reserved = each(({ tables }) => tables.reservedClusters);
  return [
    gauge('sluice_qcow2_reserved_clusters', 'Clusters counted ahead of their use.', reserved),
    ...TABLE_COUNTERS.map(([name, help, value]) =>
      counter(
        `sluice_qcow2_${name}`,
        help,
        each(({ tables }) => value(tables)),
      ),
    ),
  ];
}

/** A sample for each export. */
function of<T extends { readonly name: string }>(
  exports: readonly T[],
): (value: (found: T) => number) => Sample[] {
  return (value) => exports.map((found) => [{ export: found.name }, value(found)]);
}

function counter(name: string, help: string, samples: readonly Sample[]): Metric {
  return { name, type: 'counter', help, samples };
}

/** A metric that goes up and down. */
export function gauge(name: string, help: string, samples: readonly Sample[]): Metric {
  return { name, type: 'gauge', help, samples };
}
