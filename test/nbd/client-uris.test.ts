/** URIs name what doc/uri.md says they name, and what cannot be had is refused by its name. */
import { describe, expect, it } from 'vitest';

import { isNbdUri, parseNbdUri, tcpUri, unixUri } from '../../src/nbd/uri.ts';

const TCP: readonly (readonly [uri: string, host: string, port: number, name: string])[] = [
  ['nbd://example.com', 'example.com', 10_809, ''],
  ['nbd://example.com/', 'example.com', 10_809, ''],
  ['NBD://example.com:1234/disk', 'example.com', 1234, 'disk'],
  ['nbd://example.com:/disk', 'example.com', 10_809, 'disk'],
  ['nbd://[::1]:10810/', '::1', 10_810, ''],
  ['nbd:///disk', 'localhost', 10_809, 'disk'],
  ['nbd://h//absolute/name', 'h', 10_809, '/absolute/name'],
  ['nbd://h/../a+b%20c', 'h', 10_809, '../a+b c'],
  ['nbd://h/%C3%BC%2F%3F', 'h', 10_809, 'ü/?'],
];

describe('a URI of an export', () => {
  it.for(TCP)('%s names a host, a port and an export', ([uri, host, port, exportName]) => {
    expect(isNbdUri(uri)).toBe(true);
    expect(parseNbdUri(uri)).toEqual({ exportName, place: { host, port } });
  });

  it.for([
    ['nbd+unix:///?socket=/run/a', '/run/a', ''],
    ['nbd+unix://?socket=a%20b+c', 'a b+c', ''],
    ['nbd+unix:///disk?socket=%2Frun%2Fü', '/run/ü', 'disk'],
  ] as const)('%s names a socket and an export', ([uri, path, exportName]) => {
    expect(parseNbdUri(uri)).toEqual({ exportName, place: { path } });
  });

  it.for([
    ['nbds://host', { verifyPeer: true }],
    ['nbds://host/?tls-certificates=a%20b', { certificates: 'a b' }],
    ['nbds://b%40b@host/?tls-psk-file=k', { username: 'b@b', pskFile: 'k' }],
    ['nbds://host/?tls-psk-file=k&tls-username=alice', { username: 'alice' }],
    ['nbds://host/?tls-verify-peer=FALSE&tls-hostname=x', { verifyPeer: false, hostname: 'x' }],
    ['nbds+unix://alice@/?socket=/s', { username: 'alice' }],
  ] as const)('%s has TLS', ([uri, tls]) => {
    const place = uri.includes('unix') ? { path: '/s' } : { host: 'host', port: 10_809 };
    expect(parseNbdUri(uri)).toMatchObject({ exportName: '', place, tls });
  });

  it('is read as it is written', () => {
    const name = 'a/b ü?#%&=+';
    expect(parseNbdUri(unixUri(name, '/tmp/a b+c&d'))).toEqual({
      exportName: name,
      place: { path: '/tmp/a b+c&d' },
    });
    expect(parseNbdUri(tcpUri(name, '::1', 1))).toEqual({
      exportName: name,
      place: { host: '::1', port: 1 },
    });
  });

  it.for([
    ['nbd+vsock://2/', 'UNSUPPORTED', /vsock is not supported/],
    ['nbds+vsock://2/', 'UNSUPPORTED', /vsock is not supported/],
    ['nbd+ssh://host/', 'INVALID_ARGUMENT', /write nbd:\/\/ or nbd\+unix:\/\/, or nbds for TLS/],
    [
      'nbd://host/?tls-certificates=x',
      'INVALID_ARGUMENT',
      /leave out 'tls-certificates': it is for nbds/,
    ],
    ['nbds://host/?tls-priority=x', 'INVALID_ARGUMENT', /leave out 'tls-priority': known: /],
    ['nbds://host/?tls-verify-peer=maybe', 'INVALID_ARGUMENT', /is true or false/],
    ['nbds://h/?tls-psk-file=a&tls-certificates=b', 'INVALID_ARGUMENT', /leave one of them out/],
    ['nbds://a@b@host/', 'INVALID_ARGUMENT', /write nbd:/],
    ['nbd://host/?socket=x', 'INVALID_ARGUMENT', /it has a socket, write nbd\+unix/],
    ['nbd+unix:///?socket=a&socket=b', 'INVALID_ARGUMENT', /two values of 'socket'/],
    ['nbd+unix:///', 'INVALID_ARGUMENT', /add \?socket=PATH/],
    ['nbd+unix://host/?socket=a', 'INVALID_ARGUMENT', /has no host, write three slashes/],
    [`nbd+unix:///?socket=${'x'.repeat(108)}`, 'INVALID_ARGUMENT', /at most 107 bytes/],
    ['nbd+unix:///?socket=%00a', 'INVALID_ARGUMENT', /a socket's path/],
    ['nbd://user@host/', 'INVALID_ARGUMENT', /a user for nbds:\/\/ alone/],
    ['nbd://host:0/', 'INVALID_ARGUMENT', /a port is a number from 1/],
    ['nbd://host:65536/', 'INVALID_ARGUMENT', /a port is a number from 1/],
    ['nbd://host/a#b', 'INVALID_ARGUMENT', /has a fragment/],
    ['nbd://host/%zz', 'INVALID_ARGUMENT', /not percent-encoded UTF-8/],
    ['nbd://host/%ff', 'INVALID_ARGUMENT', /not percent-encoded UTF-8/],
    ['nbd://host/%00', 'INVALID_ARGUMENT', /has no NUL/],
    [`nbd://host/${'x'.repeat(4097)}`, 'INVALID_ARGUMENT', /at most 4096 bytes/],
  ] as const)('%s is refused', ([uri, code, message]) => {
    expect(isNbdUri(uri)).toBe(true);
    expect(() => parseNbdUri(uri)).toThrow(
      expect.objectContaining({
        code: `ERR_SLUICE_${code}`,
        message: expect.stringMatching(message) as string,
      }),
    );
  });

  it.for(['disk.img', './nbd://x', 'nbd:host:10809', 'https://host/', '/nbd://'])(
    '%s is none',
    (path) => expect(isNbdUri(path)).toBe(false),
  );
});
