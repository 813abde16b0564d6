/** How far a verb is: a bar on a terminal, the lines of qemu-img where -p asks for them. */
import { stopRequested } from '../stop.ts';
import type { Terminal } from '../terminal.ts';

/** Of the disk. */
export interface Progress {
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** What the command line says about it. */
export interface ProgressOptions {
  readonly progress?: true;
  readonly quiet?: true;
  /** When a signal ends the work; without it nothing was made. */
  readonly whatThereIs?: string;
}

/** Work that tells how far it is, and ends when the signal comes. */
type Work<T> = (onProgress: (progress: Progress) => void, signal: AbortSignal) => Promise<T>;

/** Why work has ended before its end. */
export class Stopped extends Error {
  override readonly name = 'Stopped';
  readonly code = 'stopped by a signal';
}

const EXIT_INTERRUPTED = 130;

/** Runs work; Ctrl-C stops it, with what there is then, and a second one gives up. */
export async function withProgress<T>(
  terminal: Terminal,
  options: ProgressOptions,
  work: Work<T>,
): Promise<T> {
  const stop = new AbortController();
  void stopRequested({ giveUp: () => terminal.error('gave up') }).then(() => {
    process.exitCode = EXIT_INTERRUPTED;
    stop.abort(new Stopped(options.whatThereIs ?? 'nothing was made'));
  });
  const display = await displayFor(terminal, options);
  try {
    return await work((progress) => display.show(progress), stop.signal);
  } finally {
    display.end();
  }
}

/** Shows it. */
export interface Display {
  show(progress: Progress): void;
  end(): void;
}

async function displayFor(terminal: Terminal, options: ProgressOptions): Promise<Display> {
  if (options.quiet === true) return { show: () => undefined, end: () => undefined };
  if (terminal.interactive) {
    // Loaded where somebody looks.
    const { Bar } = await import('./bar.ts');
    return new Bar();
  }
  if (options.progress === true) return new Percentages();
  return { show: () => undefined, end: () => undefined };
}

/** On stdout, as qemu-img -p writes it. When nobody takes it any more the work goes on. */
class Percentages implements Display {
  #last = '';
  #gone = false;

  constructor() {
    process.stdout.on('error', () => {
      this.#gone = true;
    });
  }

  show({ doneBytes, totalBytes }: Progress): void {
    const percent = totalBytes === 0 ? 100 : (doneBytes * 100) / totalBytes;
    const text = `    (${percent.toFixed(2)}/100%)\r`;
    if (text !== this.#last) this.#write(text);
    this.#last = text;
  }

  end(): void {
    this.#write('\n');
  }

  #write(text: string): void {
    if (!this.#gone) process.stdout.write(text);
  }
}
