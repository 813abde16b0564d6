/**
 * The control socket of `sluice serve --control`: HTTP on a unix socket of mode 0600. What it
 * answers is in docs/metrics.md.
 *
 * L1 A connection has one request; at most MAX_CONNECTIONS are open, and none is idle for longer
 *    than PATIENCE_MS, nor sends a request for longer than that.
 * L2 An answer is made when it is asked for, and its size depends on exports and clients only.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { listen, toSocketPath } from '../nbd/listen.ts';
import { gauge, type Metric, metricsText } from '../nbd/stats/prometheus.ts';
import { type NbdServer, toPrometheus } from '../node.ts';
import { listenRefusal, socketPath } from './listen.ts';
import { ailments, type NamedDisk } from './served-image.ts';
import type { ControlStats } from './stats-text.ts';
import { staleLines, type TlsReloads } from './tls-reloads.ts';
import { packageVersion } from './version.ts';

const MAX_CONNECTIONS = 16;
const MAX_HEADER_BYTES = 8192;
const PATIENCE_MS = 5000;
const PRIVATE_UMASK = 0o177;

/** What the socket tells of. */
export interface Controlled {
  readonly server: NbdServer;
  readonly disks: readonly NamedDisk[];
  readonly renewal?: { readonly reloads: TlsReloads | undefined };
}

/** A control socket that listens; disposing closes and removes it. */
export class Control implements AsyncDisposable {
  readonly #server: Server | undefined;

  private constructor(server: Server | undefined) {
    this.#server = server;
  }

  /** Listens at a path; without one there is none. Rejects with a Refusal. */
  static async open(path: string | undefined, controlled: Controlled): Promise<Control> {
    if (path === undefined) return new Control(undefined);
    const server = createServer(
      {
        maxHeaderSize: MAX_HEADER_BYTES,
        headersTimeout: PATIENCE_MS,
        requestTimeout: PATIENCE_MS,
        connectionsCheckingInterval: 1000,
        keepAlive: false,
      },
      (request, response) => answer(request, response, controlled),
    );
    server.maxConnections = MAX_CONNECTIONS;
    server.maxRequestsPerSocket = 1;
    server.setTimeout(PATIENCE_MS, (socket) => socket.destroy());
    try {
      await listen(server, { path: toSocketPath(socketPath(path)) }, PRIVATE_UMASK);
    } catch (cause) {
      throw listenRefusal(cause, JSON.stringify(path), '--control');
    }
    return new Control(server);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    await new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    });
  }
}

/** What `GET /stats` answers. */
export function controlStats({ server, disks, renewal }: Controlled): ControlStats {
  const tlsReloads = renewal?.reloads;
  const { user, system } = process.cpuUsage();
  return {
    sluice: packageVersion(),
    node: process.versions.node,
    pid: process.pid,
    residentBytes: process.memoryUsage.rss(),
    cpuSeconds: (user + system) / 1e6,
    healthy: disks.flatMap(ailments).length === 0,
    ...(tlsReloads === undefined ? {} : { tlsReloads }),
    server: server.stats(),
  };
}

function answer(request: IncomingMessage, response: ServerResponse, controlled: Controlled): void {
  const { method = '', url = '' } = request;
  const make = ROUTES.get(pathOf(url));
  if (make === undefined) {
    reply(response, 404, TEXT, `there is ${[...ROUTES.keys()].join(', ')}\n`);
  } else if (method !== 'GET' && method !== 'HEAD') {
    response.setHeader('Allow', 'GET, HEAD');
    reply(response, 405, TEXT, 'GET or HEAD\n');
  } else {
    const { status = 200, type, body } = make(controlled);
    reply(response, status, type, body);
  }
}

/** The path of a request's target, which may have a scheme and a host. RFC 9112, 3.2.2. */
function pathOf(target: string): string {
  return target.replace(/^https?:\/\/[^/?#]*/i, '').replace(/\?.*$/s, '');
}

interface Answer {
  readonly status?: number;
  readonly type: string;
  readonly body: string;
}

const TEXT = 'text/plain; charset=utf-8';
const PROMETHEUS = 'text/plain; version=0.0.4; charset=utf-8';

const ROUTES: ReadonlyMap<string, (controlled: Controlled) => Answer> = new Map([
  ['/stats', stats],
  ['/metrics', metrics],
  ['/health', health],
]);

function stats(controlled: Controlled): Answer {
  const body = `${JSON.stringify(controlStats(controlled), null, 2)}\n`;
  return { type: 'application/json', body };
}

function metrics(controlled: Controlled): Answer {
  const own = metricsText(processMetrics(controlStats(controlled)));
  return { type: PROMETHEUS, body: toPrometheus(controlled.server.stats()) + own };
}

/** Files of TLS that cannot be used are told of; clients are served with those before. */
function health({ disks, renewal }: Controlled): Answer {
  const reasons = disks.flatMap(ailments);
  const stale = staleLines(renewal?.reloads);
  if (reasons.length === 0) return { type: TEXT, body: `${['ok', ...stale].join('\n')}\n` };
  reasons.push(...stale);
  return { status: 503, type: TEXT, body: `${reasons.join('\n')}\n` };
}

function processMetrics(stats: ControlStats): Metric[] {
  const { sluice, node, residentBytes, cpuSeconds, tlsReloads } = stats;
  const startedAt = Date.now() / 1000 - process.uptime();
  return [
    gauge('sluice_build_info', 'Always 1.', [[{ version: sluice, node }, 1]]),
    gauge('process_resident_memory_bytes', 'Memory of the process.', [[{}, residentBytes]]),
    {
      name: 'process_cpu_seconds_total',
      type: 'counter',
      help: 'User and system time of the process.',
      samples: [[{}, cpuSeconds]],
    },
    gauge('process_start_time_seconds', 'Since the epoch.', [[{}, startedAt]]),
    ...(tlsReloads === undefined ? [] : tlsMetrics(tlsReloads)),
  ];
}

function tlsMetrics({ done, failed, stale }: TlsReloads): Metric[] {
  return [
    {
      name: 'sluice_tls_reloads_total',
      type: 'counter',
      help: 'Times that SIGHUP had the files of TLS read anew, by how it went.',
      samples: [
        [{ result: 'done' }, done],
        [{ result: 'failed' }, failed],
      ],
    },
    gauge('sluice_tls_stale', '1 while the last reload of TLS has failed.', [[{}, Number(stale)]]),
  ];
}

function reply(response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, {
    'Content-Type': type,
    'Content-Length': Buffer.byteLength(body),
    Connection: 'close',
  });
  response.end(body);
}
