/** The rows of the tables of docs/nbd.md. */

/** What clients use of `sluice serve`. */
export const SERVER_FEATURES = [
  'raw',
  'qcow2',
  'read, write',
  'flush',
  'FUA',
  'trim',
  'write zeroes',
  'base:allocation',
  'qemu:allocation-depth',
  'qemu:dirty-bitmap',
  'list of exports',
  'several connections',
  'extended headers',
  'unix socket',
  'TCP',
  'TLS, X.509',
  'TLS, pre-shared key',
] as const;

export type ServerFeature = (typeof SERVER_FEATURES)[number];

/** What verbs of sluice use of other servers. */
export const CLIENT_FEATURES = [
  'info, measure',
  'map: base:allocation',
  'read: compare, convert, dd',
  'write: convert',
  'flush at the end',
  'write zeroes',
  'an error is EIO, and told',
  'a read-only export is not written',
  'smallest block of 4 KiB',
  'no write zeroes',
  'no base:allocation',
  'no structured replies',
  'newstyle, not fixed',
  'oldstyle',
  'extended headers',
  'unix socket',
  'TCP',
  'TLS, X.509',
  'TLS, pre-shared key',
  'list of exports',
  'FUA, trim',
  'qemu:allocation-depth, qemu:dirty-bitmap',
  'several connections',
] as const;

export type ClientFeature = (typeof CLIENT_FEATURES)[number];
