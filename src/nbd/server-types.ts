/** A server of NBD as its owner has it. */
import type { Device } from '../device.ts';
import type { SluiceError } from '../errors.ts';
import type { NbdClientEnd, NbdClientInfo, NbdServerStats, NbdUnserved } from './stats/types.ts';
import type { NbdTlsOptions } from './tls.ts';

/** What a server tells its owner. */
export interface NbdServerEvents {
  /** A client entered transmission; `clients` counts it. */
  connect: [client: NbdClientInfo];
  /** A client has left, and everything it asked for is executed; `clients` counts it no more. */
  disconnect: [client: NbdClientInfo, end: NbdClientEnd];
  /** A connection has ended before transmission. */
  unserved: [unserved: NbdUnserved];
  /** A connection could not be accepted, for want of descriptors say. The server goes on. */
  refused: [error: Error];
  /** TLS with a client did not begin, say for want of a key; the client is gone. */
  fault: [error: SluiceError];
}

/** A running server. NBD proto, "Introduction". */
export interface NbdServer extends AsyncDisposable {
  /** Where clients find the first export. NBD, doc/uri.md. */
  readonly uri: string;
  /** Where clients find each export, in the order in which they were given. */
  readonly uris: readonly string[];
  /** Clients in transmission now. */
  readonly clients: number;
  /** What it has done, and is doing now. Of a closed server what connections there were is left. */
  stats(): NbdServerStats;
  /**
   * Certificates or keys for clients that come from now on; those that are there keep their TLS.
   * Whether TLS is required stays as it is.
   * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT for a server without TLS, another `mode`, and
   *   what cannot be used: then the old ones stay
   */
  renewTls(tls: NbdTlsOptions): void;
  /** Resolves when the server is closed, whoever closed it. */
  readonly closed: Promise<void>;
  on<E extends keyof NbdServerEvents>(
    event: E,
    listener: (...args: NbdServerEvents[E]) => void,
  ): this;
  once<E extends keyof NbdServerEvents>(
    event: E,
    listener: (...args: NbdServerEvents[E]) => void,
  ): this;
  off<E extends keyof NbdServerEvents>(
    event: E,
    listener: (...args: NbdServerEvents[E]) => void,
  ): this;
  /**
   * Accepts nobody any more, finishes what was received, and closes. The devices stay open, and
   * are not flushed.
   */
  close(): Promise<void>;
}

/** A server that can end the exports of one device. */
export interface DeviceServer extends NbdServer {
  /**
   * Offers a device no more: finishes what its clients have sent, and lets them go. Nothing of the
   * device is used afterwards. Without any export left the server closes.
   */
  withdraw(device: Device): Promise<void>;
}
