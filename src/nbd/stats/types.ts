/** What a server tells about itself. Every count is since the server began, unless it says so. */
import type { DiskStats } from '../../stats.ts';
import type { NbdCommand } from '../commands.ts';
import type { NbdErrorName } from './counts.ts';

/**
 * Why a connection ended.
 *
 * abort        the client said ABORT: it wanted to look only
 * disconnect   the client said DISC
 * gone         the client closed, or the network lost it, without either
 * protocol     it said what is not NBD, or absurd
 * timeout      it did not finish the negotiation, or got no slot, in time
 * evicted      too many negotiate: a newcomer took its place
 * crowded      too many wait for a slot already
 * tls          TLS with it did not begin, for want of a key say
 * stalled      it held memory that others waited for, and neither sent nor read
 * idle         it made room for one that waited
 * shutdown     the server closed, or offers the export no more
 */
export type NbdEndReason =
  | 'abort'
  | 'disconnect'
  | 'gone'
  | 'protocol'
  | 'timeout'
  | 'evicted'
  | 'crowded'
  | 'tls'
  | 'stalled'
  | 'idle'
  | 'shutdown';

/** A client in transmission, and what it has negotiated. */
export interface NbdClientInfo {
  /** The server, by the URI of its first export. */
  readonly server: string;
  /** Of the connection: 1, 2, 3 ... in the order in which the server accepted them. */
  readonly id: number;
  /** `host:port`; empty on a unix socket. */
  readonly address: string;
  /** Everything is encrypted. */
  readonly tls: boolean;
  /** The export that it uses. */
  readonly export: string;
  readonly readOnly: boolean;
  /** Also true of extended headers, which structured replies are a part of. */
  readonly structuredReplies: boolean;
  readonly extendedHeaders: boolean;
  /** Metadata contexts that it selected. */
  readonly contexts: readonly string[];
}

/** How a client in transmission has ended. */
export interface NbdClientEnd {
  readonly reason: NbdEndReason;
  /** In transmission. */
  readonly seconds: number;
  readonly requests: number;
  readonly errors: number;
  readonly bytesReceived: number;
  readonly bytesSent: number;
}

/** A connection that ended before transmission. */
export interface NbdUnserved {
  readonly server: string;
  readonly id: number;
  readonly address: string;
  readonly reason: NbdEndReason;
  /** What the server did not like, in words; empty when there was nothing. */
  readonly detail: string;
}

/** Answered requests of one command. */
export interface NbdCommandStats {
  readonly requests: number;
  /** Bytes that the good ones read, wrote, trimmed or zeroed; 0 for other commands. */
  readonly bytes: number;
  /** Those that failed, by error; errors that did not occur are left out. */
  readonly errors: Partial<Record<NbdErrorName, number>>;
}

/** Latencies of one command: from the complete header to the reply. */
export interface NbdLatencyStats {
  readonly sumSeconds: number;
  /** Requests by bucket; `latencyBoundsSeconds` says where each ends, the last has no end. */
  readonly counts: readonly number[];
}

/** What has gone over connections in transmission. */
export interface NbdTraffic {
  /** Bytes of the protocol, headers included. */
  readonly bytesReceived: number;
  readonly bytesSent: number;
  /** Requests whose replies the kernel has not taken yet; now. */
  readonly inFlight: number;
  readonly commands: Readonly<Record<NbdCommand, NbdCommandStats>>;
}

/** A client that is served now. */
export interface NbdClientStats extends NbdClientInfo, NbdTraffic {
  /** In transmission. */
  readonly seconds: number;
  /** Bytes of transfer buffers that it holds now. */
  readonly heldBytes: number;
}

/** An export: all clients that it has had, and the disk behind it. */
export interface NbdExportStats extends NbdTraffic {
  readonly name: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Clients in transmission now. */
  readonly clients: number;
  readonly latencies: Readonly<Record<NbdCommand, NbdLatencyStats>>;
  /** A sync has failed: no flush succeeds any more. */
  readonly latched: boolean;
  /** Counters of the engine since the disk was opened, as Disk.stats() has them. */
  readonly disk?: DiskStats;
}

/** What a server has done, and is doing. */
export interface NbdServerStats {
  /** Of the first export. */
  readonly uri: string;
  readonly uptimeSeconds: number;
  readonly connections: {
    readonly accepted: number;
    /** That the system would not let us accept. */
    readonly refused: number;
    /** Now, by state. */
    readonly negotiating: number;
    readonly waiting: number;
    readonly serving: number;
    /** Clients that may be served at once, 0: any number. */
    readonly limit: number;
    /** That ended before transmission, by reason. */
    readonly unserved: Partial<Record<NbdEndReason, number>>;
    /** That ended after it had begun, by reason. */
    readonly ended: Partial<Record<NbdEndReason, number>>;
  };
  /** Where buckets of latencies end. */
  readonly latencyBoundsSeconds: readonly number[];
  /** Those that are offered now: of a closed server none. */
  readonly exports: readonly NbdExportStats[];
  readonly clients: readonly NbdClientStats[];
}
