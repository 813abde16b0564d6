/**
 * Results on stdout.
 *
 * O1 A reader who has gone away (EPIPE), as head does, wants no more: that is no error, and the
 *    exit code is what it would be. Of an image on stdout it is one: a copy was asked for.
 */

/** Writes a result to stdout; rejects when it cannot be written, as to a full disk. */
export async function writeResult(text: string): Promise<void> {
  await writePart(text);
}

/** As `writeResult`; resolves with false when the reader has gone away, and no more is wanted. */
export function writePart(text: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const failed = (error: NodeJS.ErrnoException): void => {
      if (error.code === 'EPIPE' || error.code === 'ERR_STREAM_DESTROYED') resolve(false);
      else reject(error);
    };
    // A stream that fails says so twice; without a listener the second time ends the process.
    process.stdout.once('error', failed);
    process.stdout.write(text, (error) => {
      if (error !== null && error !== undefined) return failed(error);
      process.stdout.off('error', failed);
      resolve(true);
    });
  });
}
