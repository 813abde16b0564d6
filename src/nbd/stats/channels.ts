/**
 * What happens in servers, for whoever subscribes: node:diagnostics_channel. Without a subscriber
 * nothing is made and nothing is called. docs/metrics.md has the payloads.
 */
import { channel } from 'node:diagnostics_channel';
import type { NbdClientEnd, NbdClientInfo, NbdUnserved } from './types.ts';
import type { NbdCommand } from '../commands.ts';
import type { NbdErrorName } from './counts.ts';

/** Of `sluice:nbd:request` and `sluice:nbd:error`: one answered request, never its data. */
export interface NbdRequestEvent {
  readonly client: NbdClientInfo;
  readonly command: NbdCommand;
  /** The number of the command, where `command` is `unknown`. */
  readonly type: number;
  /** NBD proto, "Command flags". */
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly error: NbdErrorName | undefined;
  /** From its complete header to its reply. */
  readonly seconds: number;
}

/** Of `sluice:nbd:disconnect`. */
export interface NbdDisconnectEvent {
  readonly client: NbdClientInfo;
  readonly end: NbdClientEnd;
}

/** `{ client: NbdClientInfo }`: transmission begins. */
export const connectChannel = channel('sluice:nbd:connect');
/** NbdDisconnectEvent: everything that the client asked for is executed. */
export const disconnectChannel = channel('sluice:nbd:disconnect');
/** NbdUnserved: a connection has ended before transmission. */
export const unservedChannel = channel('sluice:nbd:unserved');
/** NbdRequestEvent, for every request. */
export const requestChannel = channel('sluice:nbd:request');
/** NbdRequestEvent, for those that failed. */
export const errorChannel = channel('sluice:nbd:error');

/** Publishes what is only made when somebody listens. */
export function publishConnect(client: NbdClientInfo): void {
  if (connectChannel.hasSubscribers) connectChannel.publish({ client });
}

/** As `publishConnect`. */
export function publishDisconnect(client: NbdClientInfo, end: NbdClientEnd): void {
  const event: NbdDisconnectEvent = { client, end };
  if (disconnectChannel.hasSubscribers) disconnectChannel.publish(event);
}

/** As `publishConnect`. */
export function publishUnserved(unserved: NbdUnserved): void {
  if (unservedChannel.hasSubscribers) unservedChannel.publish(unserved);
}
