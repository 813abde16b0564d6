/** Ways to end the process that process.exit() does not offer. */
import { createRequire } from 'node:module';
import { isatty } from 'node:tty';
import type * as Koffi from 'koffi';

const STANDARD_STREAMS = [0, 1, 2];

/** Watches the terminal from here on. Answers how to end the process: at the end, call it once. */
export function prepareExit(): (code: number) => never {
  const terminals = STANDARD_STREAMS.filter((fd) => isatty(fd));
  return (code) => {
    // Node restores the settings of its terminals, and aborts when one has hung up.
    if (terminals.every((fd) => isatty(fd))) process.exit(code);
    return exitAtOnce(code, 'SIGHUP');
  };
}

/**
 * Ends the process now: process.exit() waits for the calls on libuv's pool, such as a sync that
 * hangs. Without koffi the process dies of `signal` instead.
 */
export function exitAtOnce(code: number, signal: NodeJS.Signals): never {
  try {
    const koffi = createRequire(import.meta.url)('koffi') as typeof Koffi;
    koffi.load(null).func('_exit', 'void', ['int'])(code);
  } catch {
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  }
  return process.exit(code);
}
