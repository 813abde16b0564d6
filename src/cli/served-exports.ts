/**
 * The images of a command line, and what is said of each: -f, -x, -D and --key-file are given once
 * for all, or once for each image, in their order.
 */
import { basename } from 'node:path';

/** One image and how it is offered. */
export interface ServedExport {
  readonly image: string;
  readonly name: string;
  readonly description: string | undefined;
  readonly format: string | undefined;
  readonly keyFile: string | undefined;
}

/** What may be said of each image. */
export interface EachOptions {
  readonly format?: readonly string[];
  readonly keyFile?: readonly string[];
  readonly exportName?: readonly string[];
  readonly description?: readonly string[];
}

/**
 * Brings images and options together. The only export has no name unless -x gives it one; several
 * are named like their files.
 * @param refuse ends the command with a usage error
 */
export function exportsOf(
  images: readonly string[],
  options: EachOptions,
  refuse: (message: string) => never,
): ServedExport[] {
  const count = images.length;
  const each = (
    flag: string,
    values: readonly string[] | undefined,
  ): ((index: number) => string | undefined) => {
    const given = values?.length ?? 0;
    if (given > 1 && count > 1 && given !== count) {
      refuse(`${flag} is given ${given} times for ${count} images: once for all, or for each`);
    }
    return (index) => (count > 1 && given === count ? values?.[index] : values?.at(-1));
  };
  const { exportName } = options;
  if (count > 1 && exportName?.length === 1) {
    refuse('-x is given once for each image, or not at all');
  }
  const name = each('-x', exportName);
  const description = each('-D', options.description);
  const format = each('-f', options.format);
  const keyFile = each('--key-file', options.keyFile);
  const exports = images.map((image, index) => ({
    image,
    name: name(index) ?? (count > 1 ? basename(image) : ''),
    description: description(index),
    format: format(index),
    keyFile: keyFile(index),
  }));
  const names = exports.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) {
    refuse(`two exports are named '${twice}': give each its name with -x, in the order of images`);
  }
  return exports;
}
