/** Errors as lines for people. */

/** The words of the library in the words of the command line. */
const WORDS: readonly (readonly [library: string, commandLine: string])[] = [
  ["pass format: 'raw' (-f raw)", 'pass -f raw'],
  ["pass format: 'qcow2' (-f qcow2)", 'pass -f qcow2'],
  ["lock: 'none'", '--no-lock (serve, vhost-user) or -U (verbs that only read)'],
  ['in none of the folders that are allowed', 'in no folder that is allowed (--allow FOLDER)'],
  ["backingFormat: 'raw' or 'qcow2'", '--backing-format raw or qcow2'],
  ['pass encryption: { key }', 'pass --key-file, or --key-secret (not of serve)'],
  ['encryption is for qcow2', '--key-file is for qcow2'],
  ['backing is for qcow2', '--allow is for qcow2'],
  ['backingFormat is for qcow2', '--backing-format is for qcow2'],
  ['metadataCacheBytes is for qcow2', '--metadata-cache is for qcow2'],
  ['flushIntervalMs is for qcow2', '--flush-interval is for qcow2'],
  ['pass targetFormat: qcow2', 'pass -O qcow2'],
  ["pass bitmaps: 'usable'", 'pass --skip-broken-bitmaps'],
  ['the name alone with unsafe: true', 'the name alone with -u'],
  ['pass shrink: true (--force)', 'pass --force'],
  ['pass keep: true (-d)', 'pass -d'],
  ['pass shrink: true', 'pass --shrink'],
  ['pass sizeBytes', 'pass SIZE'],
  ['pass extendedL2 with it', 'pass -o extended_l2=on with it'],
  ['use version 3, or preallocation full', 'use compat=1.1, or preallocation=full'],
  ['larger clusters (clusterBits)', 'larger clusters (cluster_size)'],
  ['tls has a certificate', 'the folder of --tls-certificates has a certificate'],
  ['open it read-only', 'open it read-only (-r)'],
  ['use a page-cache mode (writeback, writethrough)', 'pass --cache writeback'],
];

/** `message (CODE)` for each thing that went wrong, one line each. */
export function reportLines(error: unknown): string[] {
  if (!(error instanceof Error)) return [oneLine(String(error))];
  const { code, error: later, suppressed: earlier } = error as Reportable;
  // Of `await using`: closing failed too, after the first error.
  if (earlier !== undefined) return [...reportLines(earlier), ...reportLines(later)];
  if (code === undefined) return [oneLine(error.stack ?? String(error))];
  const message = WORDS.reduce((text, [from, to]) => text.replace(from, to), error.message);
  // One code is enough: the words before it say what the system's own code says.
  const words = message.replace(/\s+/g, ' ').replace(/ \(E[A-Z0-9]+\)$/, '');
  return [`${words} (${code})`];
}

/** What an error may have: a code, or as a SuppressedError two errors. */
interface Reportable extends Error {
  readonly code?: string;
  readonly error?: unknown;
  readonly suppressed?: unknown;
}

/** An error without a code is a defect: its stack is kept, on one line. */
function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, ' | ');
}
