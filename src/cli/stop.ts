/** The signals that end a server: the first one asks it to stop, a second one does not wait. */
import { exitAtOnce } from './exit.ts';

/** What asks a server to stop. */
export const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** 128 + SIGINT, as a shell reports it. */
const EXIT_INTERRUPTED = 130;

/**
 * Resolves with the first signal. From the call on, a second SIGINT or SIGTERM ends the process at
 * once, after `giveUp`. A second SIGHUP does not: shell and kernel may each send one.
 * @param reload what SIGHUP does instead of all this to a daemon, which has no terminal that could
 *   hang up: by custom it reads its files anew
 */
export function stopRequested(giveUp: () => void, reload?: () => void): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let stopping = false;
    for (const signal of SIGNALS) {
      process.on(signal, () => {
        if (signal === 'SIGHUP' && reload !== undefined) return reload();
        if (stopping && signal !== 'SIGHUP') {
          giveUp();
          exitAtOnce(EXIT_INTERRUPTED, 'SIGINT');
        }
        stopping = true;
        resolve(signal);
      });
    }
  });
}
