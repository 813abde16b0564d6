/** How far a verb is: a bar on a terminal, the lines of qemu-img where -p asks for them. */
import { SingleBar } from 'cli-progress';
import { stopRequested } from '../stop.ts';
import { type Terminal, USUAL_WIDTH } from '../terminal.ts';
import { progressLine, type Standing } from './progress-line.ts';

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
const REDRAWS_A_SECOND = 5;

/** Runs work; Ctrl-C stops it, with what there is then, and a second one gives up. */
export async function withProgress<T>(
  terminal: Terminal,
  options: ProgressOptions,
  work: Work<T>,
): Promise<T> {
  const stop = new AbortController();
  void stopRequested(() => terminal.error('gave up')).then(() => {
    process.exitCode = EXIT_INTERRUPTED;
    stop.abort(new Stopped(options.whatThereIs ?? 'nothing was made'));
  });
  const display = displayFor(terminal, options);
  try {
    return await work((progress) => display.show(progress), stop.signal);
  } finally {
    display.end();
  }
}

interface Display {
  show(progress: Progress): void;
  end(): void;
}

function displayFor(terminal: Terminal, options: ProgressOptions): Display {
  if (options.quiet === true) return { show: () => undefined, end: () => undefined };
  if (terminal.interactive) return new Bar();
  if (options.progress === true) return new Percentages();
  return { show: () => undefined, end: () => undefined };
}

/** On stderr, gone at the end. */
class Bar implements Display {
  readonly #bar = new SingleBar({
    format: () => progressLine(this.#standing, (process.stderr.columns || USUAL_WIDTH) - 1),
    stream: process.stderr,
    clearOnComplete: true,
    hideCursor: true,
    fps: REDRAWS_A_SECOND,
  });
  readonly #started = performance.now();
  #standing: Standing = { doneBytes: 0, totalBytes: 0, seconds: 0 };
  #isOn = false;

  show({ doneBytes, totalBytes }: Progress): void {
    const seconds = (performance.now() - this.#started) / 1000;
    this.#standing = { doneBytes, totalBytes, seconds };
    if (this.#isOn) this.#bar.update(doneBytes);
    else this.#bar.start(totalBytes, doneBytes);
    this.#isOn = true;
  }

  end(): void {
    if (this.#isOn) this.#bar.stop();
  }
}

/** On stdout, as qemu-img -p writes it. */
class Percentages implements Display {
  #last = '';

  show({ doneBytes, totalBytes }: Progress): void {
    const percent = totalBytes === 0 ? 100 : (doneBytes * 100) / totalBytes;
    const text = `    (${percent.toFixed(2)}/100%)\r`;
    if (text !== this.#last) process.stdout.write(text);
    this.#last = text;
  }

  end(): void {
    process.stdout.write('\n');
  }
}
