/** The signals that end a server: the first one asks it to stop, a second one does not wait. */
import { createRequire } from 'node:module';
import type * as Koffi from 'koffi';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** 128 + SIGINT, as a shell reports it. */
const EXIT_INTERRUPTED = 130;

/**
 * Resolves at the first signal. From the call on, a second SIGINT or SIGTERM ends the process at
 * once, after `giveUp`. A second SIGHUP does not: shell and kernel may each send one.
 */
export function stopRequested(giveUp: () => void): Promise<void> {
  return new Promise((resolve) => {
    let stopping = false;
    for (const signal of SIGNALS) {
      process.on(signal, () => {
        if (stopping && signal !== 'SIGHUP') {
          giveUp();
          exitAtOnce();
        }
        stopping = true;
        resolve();
      });
    }
  });
}

/** process.exit() would wait for the calls on libuv's pool, such as a sync that hangs. */
function exitAtOnce(): void {
  try {
    const koffi = createRequire(import.meta.url)('koffi') as typeof Koffi;
    koffi.load(null).func('_exit', 'void', ['int'])(EXIT_INTERRUPTED);
  } catch {
    // Without koffi: the signal itself, which a shell reports as the same number.
    process.removeAllListeners('SIGINT');
    process.kill(process.pid, 'SIGINT');
  }
}
