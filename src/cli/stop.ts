/** The signals that end a server: the first one asks it to stop, a second one does not wait. */
import { exitAtOnce } from './exit.ts';

/** What asks a server to stop. */
export const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
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
          exitAtOnce(EXIT_INTERRUPTED, 'SIGINT');
        }
        stopping = true;
        resolve();
      });
    }
  });
}
