/** An export of an NBD server, to copy into. It keeps its size. */
import { SluiceError } from '../errors.ts';
import type { ImageFormat } from '../image/format.ts';
import { NbdClient } from '../nbd/client/client.ts';

/** What is made, and what stops it. */
export interface NbdTargetOptions {
  readonly targetFormat: ImageFormat;
  readonly signal?: AbortSignal | undefined;
}

/** Connects to it, for writing. */
export async function openNbdTarget(uri: string, options: NbdTargetOptions): Promise<NbdClient> {
  const { targetFormat, signal } = options;
  if (targetFormat !== 'raw') {
    const found = `an export is written as raw, not as ${targetFormat}`;
    const advice = 'pass targetFormat: raw (-O raw), or copy to a file and export that';
    throw refused('ERR_SLUICE_UNSUPPORTED', uri, `${found}; ${advice}`);
  }
  const client = await NbdClient.connect(uri, { signal });
  if (!client.isReadOnly) return client;
  await client[Symbol.asyncDispose]();
  throw refused('ERR_SLUICE_READ_ONLY', uri, 'the export is read-only; export it for writing');
}

function refused(
  code: 'ERR_SLUICE_READ_ONLY' | 'ERR_SLUICE_UNSUPPORTED',
  uri: string,
  found: string,
): SluiceError {
  const message = `cannot write ${JSON.stringify(uri)}: ${found}`;
  return new SluiceError(code, message, { operation: 'open', path: uri });
}
