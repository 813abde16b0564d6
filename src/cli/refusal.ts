/** What the command line refuses to do, because the system refused it first. */
import { getSystemErrorMap } from 'node:util';

/** `cannot WHAT: reason`, with the system's code. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
  readonly code: string;

  constructor(what: string, cause: unknown, advice?: string) {
    const { code = 'unknown', errno = 0, message } = cause as NodeJS.ErrnoException;
    const reason = getSystemErrorMap().get(errno)?.[1] ?? message;
    super(`cannot ${what}: ${advice === undefined ? reason : `${reason}; ${advice}`}`, { cause });
    this.code = code;
  }
}
