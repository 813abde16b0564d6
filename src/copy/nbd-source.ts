/** An export of an NBD server, to copy from. */
import { SluiceError } from '../errors.ts';
import { formatOf, MAGIC_BYTES } from '../image/format.ts';
import type { LayersOptions } from '../image/layers.ts';
import { NbdClient } from '../nbd/client/client.ts';
import type { Source, SourceExtent } from './source.ts';
import { wholeSectors } from './whole-sectors.ts';

/** An export is read as it is; what of the options is about a format is refused. */
type NbdSourceOptions = Pick<LayersOptions, 'format' | 'snapshot' | 'signal'>;

/** Data is read together when no more than this of zeroes lies between. */
const GAP_BYTES = 65_536;

interface Run {
  readonly from: number;
  to: number;
}

/** Connects to it; closing the source closes the connection. */
export async function openNbdSource(uri: string, options: NbdSourceOptions): Promise<Source> {
  const { format, snapshot, signal } = options;
  if (format !== undefined && format !== 'raw') {
    throw refused(uri, `an export is read as raw, not as ${format}; leave out the format`);
  }
  if (snapshot !== undefined) throw refused(uri, 'an export has no snapshots');
  const client = await NbdClient.connect(uri, { signal });
  try {
    if (format === undefined) await refuseImage(client, uri);
  } catch (error) {
    await client[Symbol.asyncDispose]();
    throw error;
  }
  return wholeSectors({
    sizeBytes: client.size,
    extents: () => client.extents(),
    read: (extents, start, into) => readAll(client, extents, start, into),
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  });
}

/** What is in an image would decide what the disk is; nobody asked for that. */
async function refuseImage(client: NbdClient, uri: string): Promise<void> {
  const start = new Uint8Array(Math.min(MAGIC_BYTES, client.size));
  await client.read(0, start);
  const format = formatOf(start);
  if (format === undefined) return;
  const advice = "pass format: 'raw' (-f raw) to use its bytes as they are";
  throw refused(uri, `it looks like a ${format} image, and an export is read as raw; ${advice}`);
}

async function readAll(
  client: NbdClient,
  extents: readonly SourceExtent[],
  start: number,
  into: Uint8Array,
): Promise<void> {
  const runs: Run[] = [];
  for (const extent of extents) {
    const from = extent.start - start;
    const to = from + extent.length;
    const last = runs.at(-1);
    if (extent.kind === 'zero') into.fill(0, from, to);
    else if (last !== undefined && from - last.to <= GAP_BYTES) last.to = to;
    else runs.push({ from, to });
  }
  await Promise.all(runs.map(({ from, to }) => client.read(start + from, into.subarray(from, to))));
}

function refused(uri: string, found: string): SluiceError {
  const message = `cannot open ${JSON.stringify(uri)}: ${found}`;
  return new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { operation: 'open', path: uri });
}
