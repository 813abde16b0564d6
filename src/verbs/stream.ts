/**
 * An image as a stream of bytes, for what cannot be written twice: a pipe, a socket, an upload.
 *
 * A qcow2 image begins with tables that say what comes behind them, so the disk is read twice: once
 * to know them, and once for the bytes. Nothing is kept but the first of those tables.
 */
import { invalid } from '../arguments.ts';
import { ChunkStream, LateChunks } from '../copy/chunk-stream.ts';
import { CodecPool } from '../copy/codec-pool.ts';
import { copyDisk, type CopyOptions } from '../copy/copy.ts';
import { ImageTarget } from '../copy/image-target.ts';
import { OrderedOutput } from '../copy/ordered-output.ts';
import type { Output } from '../copy/output.ts';
import { RawTarget } from '../copy/raw-target.ts';
import type { Source } from '../copy/source.ts';
import type { Target } from '../copy/target.ts';
import { makeLuksArea } from '../image/qcow2/luks-create.ts';
import { checkOptions, type Checks } from '../options.ts';
import { COPIED_OPTIONS, type CopiedOptions, openCopied } from './convert-source.ts';
import { checkTarget, newQcow2Of, TARGET_OPTIONS, type TargetOptions } from './convert-target.ts';
import { COPYING_OPTIONS, type CopyingOptions, copyingOf } from './copying.ts';

/** Options of `stream`; those of CopiedOptions are about the source. */
export interface StreamOptions extends CopiedOptions, TargetOptions, CopyingOptions {}

const STREAM_OPTIONS: Checks<StreamOptions> = {
  ...COPIED_OPTIONS,
  ...TARGET_OPTIONS,
  ...COPYING_OPTIONS,
};

/** Makes the target of a pass. */
type MakeTarget = (output: Output) => Target;

/**
 * The bytes of the image that `convert` would make, from the first to the last, in chunks that
 * belong to whoever takes them; the next one is made when it is asked for. The images are open, and
 * locked, until the last chunk was taken or the iteration was ended.
 * @throws SluiceError as `convert`; ERR_SLUICE_INVALID_ARGUMENT for an image with a data file
 */
export async function* stream(
  path: string | readonly string[],
  options: StreamOptions = {},
): AsyncGenerator<Uint8Array, void, void> {
  checkOptions(options, STREAM_OPTIONS, 'stream');
  const copying = copyingOf(options);
  checkTarget(options);
  if (options.image?.dataFile !== undefined) {
    throw invalid('a stream is one file, and a data file is another one; leave it out');
  }
  const stop = new AbortController();
  const signal =
    options.signal === undefined ? stop.signal : AbortSignal.any([stop.signal, options.signal]);
  await using codecs = new CodecPool(copying.parallel);
  await using source = await openCopied(path, { ...options, signal }, codecs);
  const makeTarget = await targetsFor(source, options, codecs);
  const late = new LateChunks();
  const pass = passesOver(source, makeTarget, { ...copying, signal });
  if (options.targetFormat === 'qcow2') await pass(new OrderedOutput(late), [0, 2]);
  const chunks = new ChunkStream(late.chunks);
  const output = new OrderedOutput(chunks);
  for (const { offset, bytes } of late.chunks) output.later(offset, bytes);
  const writing = pass(output, options.targetFormat === 'qcow2' ? [1, 2] : [0, 1]).then(
    () => chunks.end(),
    (error: unknown) => chunks.fail(error),
  );
  try {
    yield* chunks.bytes();
  } finally {
    stop.abort();
    chunks.fail(stop.signal.reason);
    await writing;
  }
}

/** The same target for every pass over the disk. */
async function targetsFor(
  { sizeBytes }: Source,
  options: StreamOptions,
  codecs: CodecPool,
): Promise<MakeTarget> {
  // All of a raw image passes, zeroes too.
  if (options.targetFormat !== 'qcow2')
    return (output) => new RawTarget(output, { sizeBytes, sparseBytes: 0 });
  const image = newQcow2Of(sizeBytes, options);
  const luks = image.encryption === undefined ? undefined : await makeLuksArea(image.encryption);
  const isFull = options.sparseBytes === 0;
  const used = options.compress === true ? codecs : undefined;
  return (output) => new ImageTarget(output, { image, codecs: used, isFull, luks });
}

/** Copies the disk once; `part` says which of how many times it is. */
function passesOver(source: Source, makeTarget: MakeTarget, options: CopyOptions) {
  return async (output: Output, [index, count]: readonly [number, number]): Promise<void> => {
    const { onProgress } = options;
    const target = makeTarget(output);
    await copyDisk(source, target, {
      ...options,
      onProgress: ({ doneBytes, totalBytes }) =>
        onProgress?.({
          doneBytes: index * totalBytes + doneBytes,
          totalBytes: count * totalBytes,
        }),
    });
    await target.finish();
  };
}
