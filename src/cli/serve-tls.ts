/** TLS of `sluice serve`, in the words of nbdkit. */
import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { type NbdServer, type NbdTlsOptions, readPskFile } from '../node.ts';
import { readPem } from '../nbd/pem.ts';
import { reportLines } from './report.ts';
import { notEmpty } from './served-image-options.ts';
import type { Terminal } from './terminal.ts';
import { staleText, type TlsReloads } from './tls-reloads.ts';

/** What the command line says, parsed. */
export interface TlsOptions {
  readonly tls?: 'off' | 'on' | 'require';
  readonly tlsCertificates?: string;
  readonly tlsPsk?: string;
  readonly tlsVerifyPeer?: true;
}

/** Between two lines about clients with which there is no TLS: they may come at any rate. */
const FAULT_LINE_MS = 10_000;

export function tlsOptions(): Option[] {
  return [
    new Option(
      '--tls <mode>',
      'on: clients may use TLS; require, the default with one of the next two: nothing is told ' +
        'in clear',
    ).choices(['off', 'on', 'require']),
    new Option(
      '--tls-certificates <folder>',
      'TLS with server-cert.pem and server-key.pem of this folder',
    )
      .argParser(notEmpty)
      .conflicts('tlsPsk'),
    new Option(
      '--tls-psk <file>',
      'TLS with pre-shared keys: a file of lines USER:HEXKEY',
    ).argParser(notEmpty),
    new Option(
      '--tls-verify-peer',
      'clients need a certificate that is signed by ca-cert.pem of the folder',
    ),
  ];
}

/** Refuses what makes no sense together. */
export function checkTls(options: TlsOptions, command: Command): void {
  const { tls, tlsCertificates, tlsPsk, tlsVerifyPeer } = options;
  const secrets = tlsCertificates ?? tlsPsk;
  if ((tls === 'on' || tls === 'require') && secrets === undefined) {
    command.error(`--tls ${tls} needs --tls-certificates or --tls-psk`);
  }
  if (tlsVerifyPeer === true && tlsCertificates === undefined) {
    command.error('--tls-verify-peer needs --tls-certificates');
  }
}

function isSecure({ tls, tlsCertificates, tlsPsk }: TlsOptions): boolean {
  return tls !== 'off' && (tlsCertificates ?? tlsPsk) !== undefined;
}

/** What the server is told, with the contents of files; undefined: no TLS. */
export async function readTls(options: TlsOptions): Promise<NbdTlsOptions | undefined> {
  const { tls, tlsCertificates: folder, tlsPsk } = options;
  if (!isSecure(options)) return undefined;
  const mode = tls === 'on' ? 'allow' : 'require';
  if (tlsPsk !== undefined) return { mode, psk: await readPskFile(tlsPsk) };
  if (folder === undefined) return undefined;
  // In turn: of several that are missing the first is told of.
  const cert = await readPem(folder, 'server-cert.pem');
  const key = await readPem(folder, 'server-key.pem');
  if (options.tlsVerifyPeer !== true) return { mode, cert, key };
  return { mode, cert, key, ca: await readPem(folder, 'ca-cert.pem') };
}

/**
 * What SIGHUP does: reads the files anew, for clients that come from then on. Of files that cannot
 * be used it is told, and the old ones stay in use.
 */
export class TlsRenewal {
  readonly #server: NbdServer;
  readonly #options: TlsOptions;
  readonly #terminal: Terminal;
  #reloads: TlsReloads = { done: 0, failed: 0, stale: false };
  /** One after the other, or the older files might win. */
  #renewed = Promise.resolve();

  constructor(server: NbdServer, options: TlsOptions, terminal: Terminal) {
    this.#server = server;
    this.#options = options;
    this.#terminal = terminal;
  }

  /** Of a server with TLS. */
  get reloads(): TlsReloads | undefined {
    return isSecure(this.#options) ? this.#reloads : undefined;
  }

  /** Reads the files anew, when what was asked before is done. */
  request(): void {
    this.#renewed = this.#renewed.then(() => this.#renew());
  }

  async #renew(): Promise<void> {
    const { done, failed, lastFailure } = this.#reloads;
    try {
      const tls = await readTls(this.#options);
      if (tls === undefined) return;
      this.#server.renewTls(tls);
      this.#reloads = { done: done + 1, failed, stale: false, ...(lastFailure && { lastFailure }) };
    } catch (cause) {
      const [error = ''] = reportLines(cause);
      this.#terminal.warn(staleText(error));
      const failure = { time: new Date().toISOString(), error };
      this.#reloads = { done, failed: failed + 1, stale: true, lastFailure: failure };
    }
  }
}

/**
 * The URI with what clients on this machine need besides, as libnbd takes it; of several users the
 * first.
 */
export function uriForClients(
  uri: string,
  { tlsCertificates, tlsPsk }: TlsOptions,
  tls: NbdTlsOptions | undefined,
): string {
  if (!uri.startsWith('nbds')) return uri;
  const [user] = tls?.psk?.keys() ?? [];
  const place = user === undefined ? uri : uri.replace('://', `://${encodeURIComponent(user)}@`);
  const [key, value] =
    tlsPsk === undefined ? ['tls-certificates', tlsCertificates] : ['tls-psk-file', tlsPsk];
  const path = encodeURIComponent(resolve(value ?? ''));
  return `${place}${uri.includes('?') ? '&' : '?'}${key}=${path}`;
}

/** Says which clients have no TLS, but not each of many. */
export function warnOfFaults(server: NbdServer, terminal: Terminal): void {
  let saidMs = -Infinity;
  let unsaid = 0;
  server.on('fault', ({ message }) => {
    const nowMs = performance.now();
    if (nowMs - saidMs < FAULT_LINE_MS) {
      unsaid++;
      return;
    }
    terminal.warn(unsaid === 0 ? message : `${message}; and ${unsaid} times before, unsaid`);
    saidMs = nowMs;
    unsaid = 0;
  });
}
