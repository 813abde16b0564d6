/** How far a verb is, on a terminal. */
import { SingleBar } from 'cli-progress';

import { USUAL_WIDTH } from '../terminal.ts';
import type { Display, Progress } from './progress.ts';
import { progressLine, type Standing } from './progress-line.ts';

const REDRAWS_A_SECOND = 5;

/** On stderr, gone at the end. */
export class Bar implements Display {
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
