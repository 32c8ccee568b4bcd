import type pg from "pg";
import { z } from "zod";
import { type Files, ProviderError } from "../../tasks/connectors/connector.ts";
import type { ByteSource } from "../events/import/lines.ts";
import { withTenant } from "../worker/withTenant.ts";
import { CHUNK_BYTES } from "./limits.ts";

const waiting = z.object({
  id: z.string(),
  file_name: z.string(),
  byte_length: z.coerce.number(),
  config: z.unknown(),
  earliest: z.date(),
  latest: z.date(),
  currencies: z.array(z.string()).transform((codes) => new Set(codes)),
});
const chunkRow = z.object({ bytes: z.instanceof(Buffer).nullable() });

/** The files of one integration, as a connector reads them. */
export function makeFiles(
  pool: pg.Pool,
  { tenantId, integrationId, task }: { tenantId: string; integrationId: string; task: string },
): Files {
  const ask = (text: string, values: unknown[]) =>
    withTenant(pool, tenantId, task, (client) => client.query(text, [tenantId, ...values]));
  /** The header's, the place's and the one behind it. */
  const recent = new Map<string, Buffer>();

  async function chunk(id: string, position: number): Promise<Buffer> {
    const key = `${id} ${position}`;
    const bytes = recent.get(key) ?? (await fetchChunk(id, position));
    recent.delete(key);
    recent.set(key, bytes);
    const [oldest = ""] = recent.keys();
    if (recent.size > 3) recent.delete(oldest);
    return bytes;
  }
  async function fetchChunk(id: string, position: number): Promise<Buffer> {
    const { rows } = await ask("select app_hidden.read_upload($1, $2, $3) as bytes", [id, position]);
    const { bytes } = chunkRow.parse(rows[0]);
    if (!bytes) throw new ProviderError("transient", "The file was deleted while it was read.");
    return bytes;
  }

  const sourceOf = (id: string, size: number): ByteSource => ({
    async read(buffer, offset, length, position) {
      if (position >= size) return { bytesRead: 0 };
      const bytes = await chunk(id, Math.floor(position / CHUNK_BYTES));
      const from = position % CHUNK_BYTES;
      return { bytesRead: bytes.copy(buffer, offset, from, from + length) };
    },
  });

  return {
    async next() {
      const { rows } = await ask("select * from app_hidden.next_upload($1, $2)", [integrationId]);
      if (rows.length === 0) return undefined;
      const { id, file_name: name, byte_length: size, ...others } = waiting.parse(rows[0]);
      return { id, name, size, ...others, handle: sourceOf(id, size) };
    },
    async release(id) {
      await ask("select app_hidden.release_upload($1, $2)", [id]);
    },
  };
}
