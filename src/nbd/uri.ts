/** URIs of exports. NBD, doc/uri.md. */
import { DEFAULT_PORT } from './protocol.ts';

/** `nbd+unix:///NAME?socket=PATH`, percent-encoded. NBD, doc/uri.md, "NBD URI". */
export function unixUri(name: string, path: string): string {
  const socket = path.split('/').map(encodeURIComponent).join('/');
  return `nbd+unix:///${encodeURIComponent(name)}?socket=${socket}`;
}

/** `nbd://host:port/NAME`; the port is left out when it is the protocol's own. As `unixUri`. */
export function tcpUri(name: string, host: string, port: number): string {
  const authority = host.includes(':') ? `[${host}]` : host;
  const suffix = port === DEFAULT_PORT ? '' : `:${port}`;
  return `nbd://${authority}${suffix}/${encodeURIComponent(name)}`;
}
