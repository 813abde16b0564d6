/** The file that tells scripts which process serves. */
import { rmSync } from 'node:fs';
import { readFile, unlink, writeFile } from 'node:fs/promises';
import { Refusal } from './refusal.ts';

/** A file with our process id. Disposing removes it, unless another server has taken it over. */
export class PidFile implements AsyncDisposable {
  readonly #path: string | undefined;
  readonly #content = `${process.pid}\n`;
  #written = false;

  /** Nothing is written without a path. */
  constructor(path: string | undefined) {
    this.#path = path;
  }

  async write(): Promise<void> {
    if (this.#path === undefined) return;
    await writeFile(this.#path, this.#content).catch((cause: unknown) => {
      throw new Refusal(`write the pid file ${JSON.stringify(this.#path)}`, cause);
    });
    this.#written = true;
  }

  /** Removes it at once, when nothing else will. */
  readonly removeNow = (): void => {
    if (this.#path !== undefined && this.#written) rmSync(this.#path, { force: true });
  };

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#path === undefined || !this.#written) return;
    try {
      if ((await readFile(this.#path, 'latin1')) === this.#content) await unlink(this.#path);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return;
      throw new Refusal(`remove the pid file ${JSON.stringify(this.#path)}`, cause);
    }
  }
}
