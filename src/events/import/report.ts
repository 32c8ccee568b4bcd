import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { UserError } from "../../config.ts";

/** The list of rejected records, beside the file. Its length is committed with each batch. */
export class Report {
  readonly path: string;
  readonly #file: FileHandle;
  #length: number;

  private constructor(path: string, file: FileHandle, length: number) {
    this.path = path;
    this.#file = file;
    this.#length = length;
  }

  get length() {
    return this.#length;
  }

  /** Cuts off what an interrupted import wrote and did not commit. A list that is not as long as it was begins anew. */
  static async open(path: string, committed: number): Promise<Report> {
    const file = await open(path, constants.O_RDWR | constants.O_CREAT).catch((error: Error) => {
      throw new UserError(`Cannot write the list of rejected records, ${path}: ${error.message}.`);
    });
    const { size } = await file.stat();
    const length = size < committed ? 0 : committed;
    await file.truncate(length);
    return new Report(path, file, length);
  }

  /** Writes lines at the end, and returns what is to be passed to `committed` if they shall stay. */
  async write(rejections: unknown[]): Promise<number> {
    const bytes = Buffer.from(rejections.map((rejection) => `${JSON.stringify(rejection)}\n`).join(""));
    if (bytes.length === 0) return this.#length;
    // Somebody may have emptied it meanwhile: no gap.
    const { size } = await this.#file.stat();
    const at = Math.min(size, this.#length);
    for (let done = 0; done < bytes.length; )
      done += (await this.#file.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
    await this.#file.datasync();
    return at + bytes.length;
  }

  committed(length: number) {
    this.#length = length;
  }

  close() {
    return this.#file.close();
  }
}
