import type { Task } from "graphile-worker";
import { z } from "zod";
import type { TaskServices } from "./index.ts";

const STRETCH = 5_000;
const found = z.tuple([z.object({ partition: z.string().nullable() })]);
const place = z.tuple([z.object({ place: z.unknown() })]);
const purged = z.tuple([z.object({ count: z.number() })]);

/** Deletes events that their tenants no longer keep: whole months where nobody keeps any, a stretch at a time elsewhere. */
export const purgeEvents =
  ({ pool, log }: TaskServices): Task =>
  async (_payload, { abortSignal }) => {
    const stopped = () => abortSignal?.aborted ?? false;
    const nextPartition = async () => {
      const { rows } = await pool.query("select app_hidden.doom_partition() as partition");
      return found.parse(rows)[0].partition;
    };
    for (let partition = await nextPartition(); partition && !stopped(); partition = await nextPartition()) {
      for (let after: unknown = null; after !== undefined && !stopped(); ) {
        const { rows } = await pool.query("select app_hidden.purge_partition_keys($1, $2, $3) as place", [
          partition,
          after === null ? null : JSON.stringify(after),
          STRETCH,
        ]);
        after = place.parse(rows)[0].place ?? undefined;
      }
      if (stopped()) return;
      await pool.query("select app_hidden.drop_partition($1)", [partition]);
      log.info({ partition }, "a month of events that nobody keeps is gone");
    }
    for (let count = 1; count > 0 && !stopped(); ) {
      const { rows } = await pool.query("select app_hidden.purge_next_events($1) as count", [STRETCH]);
      count = purged.parse(rows)[0].count;
    }
  };
