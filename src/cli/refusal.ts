/** What the command line refuses to do, because the system refused it first. */
import { systemWords } from '../system-words.ts';

/** `cannot WHAT: reason`, with the system's code. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
  readonly code: string;

  constructor(what: string, cause: unknown, advice?: string) {
    const { code = 'unknown' } = cause as NodeJS.ErrnoException;
    const reason = systemWords(cause);
    super(`cannot ${what}: ${advice === undefined ? reason : `${reason}; ${advice}`}`, { cause });
    this.code = code;
  }
}
