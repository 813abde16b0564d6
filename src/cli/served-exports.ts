/**
 * The images of a command line, and what is said of each: -f, -D and --key-file are given once for
 * all, or once for each image, in their order; -x once for each.
 */
import { basename } from 'node:path';

/** One image and how it is offered. */
export interface ServedExport {
  readonly image: string;
  readonly name: string;
  readonly description: string | undefined;
  readonly format: string | undefined;
  readonly keyFile: string | undefined;
  /** The key is for all images: for those that are encrypted. */
  readonly isKeyShared: boolean;
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
    const once = flag === '-x' ? 'not at all' : 'once for all';
    const isForAll = given === 1 && flag !== '-x';
    if (given > 0 && given !== count && !isForAll) {
      const times = given === 1 ? 'once' : `${given} times`;
      const many = count === 1 ? '1 image: give it once' : `${count} images`;
      const advice = count === 1 ? '' : `: give it once for each image, in their order, or ${once}`;
      refuse(`${flag} is given ${times} for ${many}${advice}`);
    }
    return (index) => (given === count ? values?.[index] : values?.[0]);
  };
  const name = each('-x', options.exportName);
  const description = each('-D', options.description);
  const format = each('-f', options.format);
  const keyFile = each('--key-file', options.keyFile);
  const exports = images.map((image, index) => ({
    image,
    name: name(index) ?? (count > 1 ? basename(image) : ''),
    description: description(index),
    format: format(index),
    keyFile: keyFile(index),
    isKeyShared: count > 1 && options.keyFile?.length === 1,
  }));
  const names = exports.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) {
    refuse(`two exports are named '${twice}': give each its name with -x, in the order of images`);
  }
  return exports;
}
