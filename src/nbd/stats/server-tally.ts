/**
 * The connections of one server, counted: how they ended, and what the exports have had from
 * clients that are gone. What clients that are served have done is added when somebody asks.
 */
import type { Device } from '../../device.ts';
import { readStats } from '../../stats.ts';
import { publishConnect, publishDisconnect, publishUnserved } from './channels.ts';
import { COMMANDS, type NbdCommand } from '../commands.ts';
import { Counts, LATENCY_BOUNDS_SECONDS } from './counts.ts';
import type { Tally } from './tally.ts';
import type {
  NbdClientEnd,
  NbdClientStats,
  NbdCommandStats,
  NbdEndReason,
  NbdExportStats,
  NbdLatencyStats,
  NbdServerStats,
  NbdTraffic,
  NbdUnserved,
} from './types.ts';

/** What a client in transmission counts, and what is known of it now. */
export interface CountedClient {
  readonly tally: Tally;
  readonly receivedBytes: number;
  readonly sentBytes: number;
  /** Requests without a sent reply. */
  readonly inFlight: number;
  readonly heldBytes: number;
}

/** An export as the server has it. */
export interface CountedExport {
  readonly name: string;
  readonly device: Device;
  readonly readOnly: boolean;
}

/** What only the server knows. */
export interface ServerState {
  readonly uri: string;
  readonly negotiating: number;
  readonly waiting: number;
  readonly limit: number;
  readonly exports: Iterable<CountedExport>;
}

type Reasons = Partial<Record<NbdEndReason, number>>;

export class ServerTally {
  readonly #beganAtMs = performance.now();
  #accepted = 0;
  #refused = 0;
  readonly #unserved: Reasons = {};
  readonly #ended: Reasons = {};
  /** Of clients that are gone, by export. */
  readonly #past = new Map<string, Counts>();
  readonly #clients = new Set<CountedClient>();

  /** A connection was accepted; answers with its number. */
  accepted(): number {
    this.#accepted += 1;
    return this.#accepted;
  }

  /** The system would not let us accept one. */
  refused(): void {
    this.#refused += 1;
  }

  /** Transmission begins. */
  began(client: CountedClient): void {
    this.#clients.add(client);
    publishConnect(client.tally.client);
  }

  /** Everything that a client asked for is executed. */
  ended(client: CountedClient, reason: NbdEndReason): NbdClientEnd {
    const { client: info, counts } = client.tally;
    this.#clients.delete(client);
    increase(this.#ended, reason);
    const past = this.#past.get(info.export) ?? new Counts();
    this.#past.set(info.export, past);
    past.add(settled(client));
    const commands = Object.values(commandsOf(counts));
    const end = {
      reason,
      seconds: secondsSince(client.tally.beganAtMs),
      requests: sum(commands.map(({ requests }) => requests)),
      errors: sum(commands.flatMap(({ errors }) => Object.values(errors))),
      bytesReceived: counts.receivedBytes,
      bytesSent: counts.sentBytes,
    };
    publishDisconnect(info, end);
    return end;
  }

  /** A connection has ended before transmission. */
  unserved(unserved: NbdUnserved): void {
    increase(this.#unserved, unserved.reason);
    publishUnserved(unserved);
  }

  /** Everything, as it is now. */
  stats(state: ServerState): NbdServerStats {
    return {
      uri: state.uri,
      uptimeSeconds: secondsSince(this.#beganAtMs),
      connections: {
        accepted: this.#accepted,
        refused: this.#refused,
        negotiating: state.negotiating,
        waiting: state.waiting,
        serving: this.#clients.size,
        limit: state.limit,
        unserved: { ...this.#unserved },
        ended: { ...this.#ended },
      },
      latencyBoundsSeconds: LATENCY_BOUNDS_SECONDS,
      exports: Array.from(state.exports, (served) => this.#export(served)),
      clients: Array.from(this.#clients, clientStats),
    };
  }

  #export({ name, device, readOnly }: CountedExport): NbdExportStats {
    const clients = [...this.#clients].filter(({ tally }) => tally.client.export === name);
    const counts = new Counts();
    const past = this.#past.get(name);
    if (past !== undefined) counts.add(past);
    for (const client of clients) counts.add(settled(client));
    const { engine } = device;
    return {
      name,
      sizeBytes: device.sizeBytes,
      readOnly,
      clients: clients.length,
      ...traffic(counts, sum(clients.map(({ inFlight }) => inFlight))),
      latencies: latenciesOf(counts),
      latched: engine?.latched ?? false,
      ...(engine === undefined ? {} : { disk: readStats(engine) }),
    };
  }
}

/** The counts of a client, with the bytes of its socket so far. */
function settled({ tally, receivedBytes, sentBytes }: CountedClient): Counts {
  tally.counts.receivedBytes = receivedBytes;
  tally.counts.sentBytes = sentBytes;
  return tally.counts;
}

function clientStats(client: CountedClient): NbdClientStats {
  return {
    ...client.tally.client,
    seconds: secondsSince(client.tally.beganAtMs),
    heldBytes: client.heldBytes,
    ...traffic(settled(client), client.inFlight),
  };
}

function traffic(counts: Counts, inFlight: number): NbdTraffic {
  return {
    bytesReceived: counts.receivedBytes,
    bytesSent: counts.sentBytes,
    inFlight,
    commands: commandsOf(counts),
  };
}

const MOVES_BYTES = new Set<NbdCommand>(['read', 'write', 'trim', 'write_zeroes']);

function commandsOf(counts: Counts): Record<NbdCommand, NbdCommandStats> {
  return forCommands((name, command) => ({
    requests: counts.requests(command),
    bytes: MOVES_BYTES.has(name) ? counts.bytes(command) : 0,
    errors: counts.errors(command),
  }));
}

function latenciesOf(counts: Counts): Record<NbdCommand, NbdLatencyStats> {
  return forCommands((_, command) => ({
    sumSeconds: counts.totalSeconds(command),
    counts: [...counts.latencies(command)],
  }));
}

function forCommands<T>(of: (name: NbdCommand, command: number) => T): Record<NbdCommand, T> {
  const entries = COMMANDS.map((name, command) => [name, of(name, command)] as const);
  return Object.fromEntries(entries) as Record<NbdCommand, T>;
}

function increase(reasons: Reasons, reason: NbdEndReason): void {
  reasons[reason] = (reasons[reason] ?? 0) + 1;
}

function secondsSince(atMs: number): number {
  return (performance.now() - atMs) / 1000;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
