/** A promise or a rule that was broken; the explorer catches it and tells the story. */
export class RuleBroken extends Error {
  /** Which: a short name. */
  readonly rule: string;

  constructor(rule: string, message: string) {
    super(message);
    this.name = 'RuleBroken';
    this.rule = rule;
  }
}
