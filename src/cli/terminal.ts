/**
 * stderr as the commands see it: whole lines, and on a terminal one status line below them that is
 * redrawn in place.
 *
 * T1 A status line never blocks the event loop: it is written on libuv's pool, and while a terminal
 *    does not take it (Ctrl-S) the next ones are left out.
 * T2 Without a terminal there is no status line and no escape sequence.
 * T3 A job in the background leaves the terminal to the others.
 * T4 A reader who goes away (EPIPE) ends the talking, not the server.
 */
import { readFileSync, write } from 'node:fs';
import { isatty } from 'node:tty';
import pico from 'picocolors';

/** process.stderr, or one like it; what belongs to a terminal is undefined elsewhere. */
type Stream = typeof process.stderr;
type Environment = Readonly<Record<string, string | undefined>>;

const ERASE_TO_END = '\x1b[K';
const ERASE_LINE = `\r${ERASE_TO_END}`;
/** Of a terminal that does not tell its width. */
export const USUAL_WIDTH = 80;

export class Terminal {
  /** Somebody is looking. */
  readonly interactive: boolean;
  readonly #stream: Stream;
  readonly #colors: ReturnType<typeof pico.createColors>;
  #gone = false;
  /** A status line is on the terminal, or on its way. */
  #drawn = false;
  #drawing: Promise<void> | undefined;

  constructor(stream: Stream, environment: Environment) {
    this.#stream = stream;
    this.interactive = isatty(stream.fd) && environment['TERM'] !== 'dumb';
    this.#colors = pico.createColors(this.interactive && !environment['NO_COLOR']);
    stream.on('error', () => {
      this.#gone = true;
    });
  }

  /** A line as it is; it takes the place of the status line. */
  line(text: string): void {
    if (this.#gone) return;
    this.#stream.write(`${this.#drawn ? ERASE_LINE : ''}${text}\n`);
    this.#drawn = false;
  }

  /** A line for people only. */
  hint(text: string): void {
    if (this.interactive) this.line(this.#colors.dim(text));
  }

  warn(text: string): void {
    this.line(`${this.#colors.yellow('sluice: warning:')} ${text}`);
  }

  error(text: string): void {
    this.line(`${this.#colors.red('sluice:')} ${text}`);
  }

  /** Draws or redraws the status line: the first text that fits, or the last one, cut. */
  status(texts: readonly string[]): void {
    if (!this.interactive || this.#drawing !== undefined || this.#gone || isInBackground()) return;
    const width = (this.#stream.columns || USUAL_WIDTH) - 1;
    const text = (texts.find(({ length }) => length <= width) ?? texts.at(-1) ?? '').slice(
      0,
      width,
    );
    this.#drawn = true;
    this.#drawing = this.#draw(`\r${this.#colors.dim(text)}${ERASE_TO_END}`);
  }

  /** Removes the status line, once it is there. */
  async clear(): Promise<void> {
    await this.#drawing;
    if (this.#drawn && !this.#gone) this.#stream.write(ERASE_LINE);
    this.#drawn = false;
  }

  #draw(frame: string): Promise<void> {
    return new Promise((resolve) => {
      write(this.#stream.fd, frame, () => {
        // A frame that could not be written is a frame that nobody misses.
        this.#drawing = undefined;
        resolve();
      });
    });
  }
}

/** True for `sluice ... &` in a shell with job control. */
function isInBackground(): boolean {
  if (process.platform !== 'linux') return false;
  // proc(5): pid (name) state ppid pgrp session tty_nr tpgid; the name may have spaces.
  const stat = readFileSync('/proc/self/stat', 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [, , group, , , foreground] = fields;
  return Number(foreground) > 0 && foreground !== group;
}
