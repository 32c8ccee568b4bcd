import type pg from "pg";
import { z } from "zod";
import { Unreadable } from "../../tasks/connectors/csv/rows.ts";
import { type CsvConfig, csvConfig } from "../../tasks/connectors/csv/settings.ts";
import { storablePage } from "../../tasks/connectors/storable.ts";
import { claimsOf, type Identity, withRequest } from "../auth/requests.ts";
import { ApiError } from "../graphql/errors.ts";
import type { UploadLimits } from "./limits.ts";
import { checkHead, type Head, type Hints, type Preview, previewFile } from "./preview.ts";

const settingsRow = z.object({
  config: z.unknown(),
  time_zone: z.string().nullable(),
  currency: z.string().nullable(),
  currencies: z.array(z.string()),
});
const openedRow = z.object({ id: z.string(), config: z.unknown() });
const receiptRow = z.object({
  ordinal: z.int(),
  outcome: z.string(),
  reason: z.string().nullable(),
  pointer: z.string().nullable(),
  detail: z.string().nullable(),
});
const uploadRow = z.object({
  id: z.string(),
  file_name: z.string(),
  byte_length: z.coerce.number(),
  state: z.enum(["receiving", "ready", "done"]),
  created_at: z.date(),
  ready_at: z.date().nullable(),
  done_at: z.date().nullable(),
});

export type Settings = { config: unknown; hints: Hints };
export type Upload = { id: string; fileName: string; bytes: number; columns: string[] };
export type UploadService = ReturnType<typeof makeUploadService>;

/** Each step is a transaction of its own: whoever may no longer upload is stopped at the next chunk. */
export function makeUploadService(pool: pg.Pool, limits: Pick<UploadLimits, "previewRows">) {
  const ask = async (identity: Identity, text: string, values: unknown[]): Promise<unknown[]> => {
    const { tenant_id } = claimsOf(identity);
    const { rows } = await withRequest(pool, identity, (client) =>
      client.query(text, [tenant_id, ...values]),
    );
    return rows;
  };

  return {
    /** How files of an integration are read. Rejects for whoever may not know. */
    async settings(identity: Identity, integrationId: string | null): Promise<Settings> {
      const text = "select * from app_hidden.upload_settings($1, $2)";
      const [row] = await ask(identity, text, [integrationId]);
      const { config, time_zone, currency, currencies } = settingsRow.parse(row);
      return {
        config,
        hints: {
          timeZone: time_zone ?? undefined,
          currency: currency ?? undefined,
          currencies: new Set(currencies),
        },
      };
    },

    /** What the file would become, and what of that is there already; nothing is stored. */
    async preview(
      identity: Identity,
      head: Head,
      {
        config,
        hints,
        integrationId,
      }: { config: CsvConfig | undefined; hints: Hints; integrationId: string | null },
    ) {
      const preview = await previewFile(head, config, hints, limits.previewRows).catch(refuse);
      const source = `csv:${integrationId ?? "preview"}`;
      const events = preview.rows.flatMap((row) => ("event" in row ? [row.event] : []));
      const sound = storablePage({ events, unparsable: [] }, source).events;
      const receipts =
        sound.length === events.length && events.length > 0
          ? await ask(identity, "select * from app_hidden.preview_events($1, $2)", [JSON.stringify(sound)])
          : [];
      return withReceipts(preview, receiptRow.array().parse(receipts));
    },

    /** Stores a file and has it read soon. Nothing of it stays when it does not come to its end. */
    async receive(
      identity: Identity,
      { integrationId, fileName }: { integrationId: string; fileName: string },
      chunks: AsyncGenerator<Buffer, undefined>,
    ): Promise<Upload> {
      const first = await chunks.next();
      if (first.done) throw unreadable("The file is empty.", "empty");
      const [row] = await ask(identity, "select * from app_hidden.open_upload($1, $2, $3)", [
        integrationId,
        fileName,
      ]);
      const { id, config } = openedRow.parse(row);
      try {
        const columns = await fitting(first.value, config);
        let bytes = 0;
        let position = 0;
        let chunk: IteratorResult<Buffer, undefined> = first;
        for (; !chunk.done; chunk = await chunks.next()) {
          const { value } = chunk;
          await ask(identity, "select app_hidden.add_upload_chunk($1, $2, $3, $4)", [id, position++, value]);
          bytes += value.length;
        }
        await ask(identity, "select app_hidden.complete_upload($1, $2)", [id]);
        return { id, fileName, bytes, columns };
      } catch (error) {
        // What cannot be deleted now, tend_uploads deletes.
        await ask(identity, "select app_hidden.drop_upload($1, $2, $3)", [integrationId, id]).catch(() => {});
        throw error;
      }
    },

    async list(identity: Identity, integrationId: string) {
      const rows = await ask(identity, "select * from app_hidden.list_uploads($1, $2)", [integrationId]);
      return uploadRow
        .array()
        .parse(rows)
        .map(({ id, file_name, byte_length, state, created_at, ready_at, done_at }) => ({
          ...{ id, fileName: file_name, bytes: byte_length, state, createdAt: created_at },
          ...{ readyAt: ready_at, doneAt: done_at },
        }));
    },

    async remove(identity: Identity, integrationId: string, uploadId: string): Promise<void> {
      await ask(identity, "select app_hidden.drop_upload($1, $2, $3)", [integrationId, uploadId]);
    },
  };
}

/** Nobody stores a file that its integration cannot read. */
async function fitting(head: Buffer, config: unknown): Promise<string[]> {
  const parsed = csvConfig.safeParse(config);
  if (!parsed.success)
    throw badConfig("The integration's mapping cannot be used: preview the file, and mend it.", parsed.error);
  const { header, problems } = await checkHead(head, parsed.data).catch(refuse);
  if (problems.length > 0)
    throw new ApiError(
      "INVALID_INPUT",
      `The file does not fit the mapping. ${problems.map(({ detail }) => detail).join(" ")}`,
      {
        reason: "mapping",
        status: 422,
        problems,
      },
    );
  return header;
}

export const badConfig = (sentence: string, error: z.ZodError) =>
  new ApiError("INVALID_INPUT", sentence, {
    reason: "mapping",
    status: 422,
    problems: error.issues.map(({ path, message }) => ({
      pointer: path.map((part) => `/${String(part).replaceAll("~", "~0").replaceAll("/", "~1")}`).join(""),
      detail: message,
    })),
  });

const unreadable = (message: string, reason: string) =>
  new ApiError("INVALID_INPUT", message, { reason, status: 422 });

function refuse(error: unknown): never {
  throw error instanceof Unreadable ? unreadable(error.message, "unreadable") : error;
}

type Receipt = z.output<typeof receiptRow>;

/** What the database would say of each event stands beside it. */
function withReceipts({ rows, ...preview }: Preview, receipts: readonly Receipt[]) {
  let index = 0;
  return {
    ...preview,
    rows: rows.map((row) => {
      if (!("event" in row)) return row;
      const receipt = receipts[index++];
      if (!receipt) return row;
      const { outcome, reason, pointer, detail } = receipt;
      return { ...row, outcome, ...(reason === null ? {} : { rejection: { reason, pointer, detail } }) };
    }),
  };
}
