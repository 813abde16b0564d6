/** The signals that end a server: the first one asks it to stop, a second one does not wait. */
import { constants } from 'node:os';
import { exitAtOnce } from './exit.ts';

/** What asks a server to stop. */
export const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** 128 + SIGINT, as a shell reports it. */
const EXIT_INTERRUPTED = 130;

/** What signals do besides. */
export interface StopActs {
  /** Nothing is served yet that would have to be finished. */
  readonly isStarting?: () => boolean;
  /** Before a signal ends the process because it is starting. */
  readonly abandon?: () => void;
  /** Before a second signal ends the process. */
  readonly giveUp: () => void;
  /**
   * What SIGHUP does instead of all this to a daemon, which has no terminal that could hang up: by
   * custom it reads its files anew.
   */
  readonly reload?: () => void;
}

/**
 * Resolves with the first signal. From the call on, a second SIGINT or SIGTERM ends the process at
 * once, after `giveUp`. A second SIGHUP does not: shell and kernel may each send one.
 */
export function stopRequested(acts: StopActs): Promise<NodeJS.Signals> {
  const { giveUp, reload } = acts;
  return new Promise((resolve) => {
    let stopping = false;
    for (const signal of SIGNALS) {
      process.on(signal, () => {
        if (signal === 'SIGHUP' && reload !== undefined) return reload();
        if (acts.isStarting?.() === true) {
          acts.abandon?.();
          exitAtOnce(128 + constants.signals[signal], signal);
        }
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
