/** The files of a new image: itself and, where its data lies apart, a data file. */
import { NewFile } from '../copy/new-file.ts';
import type { NewQcow2Options } from '../image/qcow2/create-options.ts';
import { pathBeside, refuseSameFile } from './create-names.ts';

/** Where they will be. */
export interface NewPaths {
  readonly path: string;
  readonly dataPath?: string | undefined;
}

/** Refuses names of one file for two. */
export async function newPathsOf(
  path: string,
  { dataFile }: NewQcow2Options,
  backing: string | undefined,
): Promise<NewPaths> {
  const dataPath = dataFile === undefined ? undefined : pathBeside(path, 'dataFile', dataFile.name);
  await refuseSameFile(path, { backing, data: dataPath });
  return { path, dataPath };
}

/** Files that are written, and take their names when all is there. */
export class NewFiles implements AsyncDisposable {
  readonly image: NewFile;
  readonly data: NewFile | undefined;

  private constructor(image: NewFile, data: NewFile | undefined) {
    this.image = image;
    this.data = data;
  }

  static async create({ path, dataPath }: NewPaths): Promise<NewFiles> {
    const image = await NewFile.create(path);
    try {
      const data = dataPath === undefined ? undefined : await NewFile.create(dataPath);
      return new NewFiles(image, data);
    } catch (error) {
      await image[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The data file has its name first: an image without it would be no disk. */
  async finish(isStable: boolean): Promise<void> {
    await this.data?.finish(isStable);
    await this.image.finish(isStable);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.data?.[Symbol.asyncDispose]();
    await this.image[Symbol.asyncDispose]();
  }
}
