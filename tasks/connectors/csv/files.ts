import { z } from "zod";
import { headOf, type Place } from "../../../src/events/import/records.ts";
import {
  type Page,
  ProviderError,
  type Stream,
  type UnparsableRecord,
  type UploadedFile,
} from "../connector.ts";
import { makeMapper, sentenceOf } from "./map.ts";
import { detailOf, openCsv, readColumns, readRows, Unreadable } from "./rows.ts";
import { type CsvConfig, type CsvCredentials, csvConfig } from "./settings.ts";

/** Of a page, which is saved in one transaction. */
const MAX_ROWS = 2_000;
const MAX_CHARACTERS = 1024 * 1024;

export const filesCheckpoint = z.object({
  /** The file under way, or the last that was read. */
  upload: z.uuid().nullable(),
  offset: z.int().min(0),
  line: z.int().min(1),
  /** To its end. The engine saved this: its bytes may go. */
  isRead: z.boolean(),
});
export type FilesCheckpoint = z.output<typeof filesCheckpoint>;
type FilesPage = Page<FilesCheckpoint>;

export const files: Stream<CsvConfig, CsvCredentials, FilesCheckpoint> = {
  description: "Uploaded files, one after another, in the order in which they came.",
  checkpoint: filesCheckpoint,
  async fetchPage({ checkpoint, files: uploads, range }) {
    if (!uploads) throw new Error("The engine passes files.");
    if (range)
      throw new ProviderError(
        "permanent",
        "Files cannot be read again by a range of time: upload the file again.",
      );
    if (checkpoint?.upload && checkpoint.isRead) await uploads.release(checkpoint.upload);
    const file = await uploads.next();
    if (!file) {
      const nothing = { upload: null, offset: 0, line: 1, isRead: true };
      return { events: [], unparsable: [], checkpoint: nothing, done: true };
    }
    const isUnderWay = checkpoint?.upload === file.id && !checkpoint.isRead;
    try {
      return await readPage(file, isUnderWay ? checkpoint : undefined);
    } catch (error) {
      // It was read when it came, and stops the files behind it in no case.
      if (!(error instanceof Unreadable) && !(error instanceof z.ZodError)) throw error;
      const reason = `The file "${file.name}" cannot be read. ${error.message}`;
      return endOf(file, { events: [], unparsable: [{ reason, record: { file: file.name } }] });
    }
  },
};

const endOf = (file: UploadedFile, page: Pick<FilesPage, "events" | "unparsable">, line = 1): FilesPage => ({
  ...page,
  checkpoint: { upload: file.id, offset: file.size, line, isRead: true },
  // Another may have come meanwhile.
  done: false,
  progress: 1,
});

async function readPage(upload: UploadedFile, from: Place | undefined): Promise<FilesPage> {
  const config = csvConfig.parse(upload.config);
  const file = await openCsv(upload, config.encoding);
  const { header, start, problems } = await readColumns(file, config);
  if (problems.length > 0) throw new Unreadable(problems.map(({ detail }) => detail).join(" "), problems);
  const map = makeMapper(config, header, upload);
  const events: FilesPage["events"] = [];
  const unparsable: UnparsableRecord[] = [];
  let place = from ?? start;
  let characters = 0;
  for await (const rows of readRows(file, config.delimiter, header.length, place))
    for (const row of rows) {
      place = row.end;
      characters += row.text.length;
      const mapped =
        "problem" in row ? { problem: { detail: detailOf(row.problem, config.encoding) } } : map(row.cells);
      if ("event" in mapped) events.push(mapped.event);
      else
        unparsable.push({
          reason: sentenceOf(row.line, mapped.problem),
          record: { file: upload.name, line: row.line, text: headOf(row.text) },
        });
      if (events.length + unparsable.length < MAX_ROWS && characters < MAX_CHARACTERS) continue;
      const checkpoint = { upload: upload.id, offset: place.offset, line: place.line, isRead: false };
      return { events, unparsable, checkpoint, done: false, progress: place.offset / upload.size };
    }
  return endOf(upload, { events, unparsable }, place.line);
}
