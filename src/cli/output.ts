/** Writes a result to stdout; rejects when it cannot be written, as to a full disk. */
export function writeResult(text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    // A stream that fails says so twice; without a listener the second time ends the process.
    process.stdout.once('error', reject);
    process.stdout.write(text, (error) => {
      if (error !== null && error !== undefined) return reject(error);
      process.stdout.off('error', reject);
      resolve();
    });
  });
}
