/** Opening images to copy or compare them. */
import { SluiceError } from '../errors.ts';
import { LAYERS_OPTIONS, type LayersOptions } from '../image/layers.ts';
import { type EncryptionOptions, isEncryption } from '../image/qcow2/encryption.ts';
import { isNbdUri } from '../nbd/uri.ts';
import { openDisk } from '../open-disk.ts';
import type { Checks } from '../options.ts';
import { openChainSource } from './chain-source.ts';
import type { CodecPool } from './codec-pool.ts';
import { diskSource } from './disk-source.ts';
import { openNbdSource } from './nbd-source.ts';
import type { Source } from './source.ts';

/** How a source is opened. */
export interface SourceOptions extends LayersOptions {
  /** The key of encrypted images. */
  readonly encryption?: EncryptionOptions | undefined;
}

/** Checks of SourceOptions. */
export const SOURCE_OPTIONS: Checks<SourceOptions> = {
  ...LAYERS_OPTIONS,
  encryption: isEncryption,
};

/** `topOnly`: what the backing file of the image says is left out. */
export async function openSource(
  path: string,
  options: SourceOptions & { readonly topOnly?: boolean },
  codecs: CodecPool,
): Promise<Source> {
  if (isNbdUri(path)) return openNbdSource(path, options);
  const source = await openChainSource(path, options, codecs);
  if (source !== undefined) return source;
  if (options.snapshot !== undefined) {
    const found = `${JSON.stringify(path)} or a backing file of it is encrypted or has a data file`;
    const message = `cannot read a snapshot: ${found}; apply it to a copy of the image first`;
    throw new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { operation: 'open', path });
  }
  // Images of other formats are plain, so this one is qcow2.
  const { lock, cache, signal, topOnly = false, backing, backingFormat, encryption } = options;
  const chain = { backing, backingFormat, encryption };
  return diskSource(
    await openDisk(path, { format: 'qcow2', lock, cache, signal, ...chain }),
    topOnly,
  );
}
