import { withPgClientFromPgService } from "postgraphile/@dataplan/pg";
import { gatherConfig } from "postgraphile/graphile-build";
import { z } from "zod";

declare global {
  namespace GraphileConfig {
    interface GatherHelpers {
      timeZones: Record<string, never>;
    }
  }
  namespace GraphileBuild {
    interface BuildInput {
      /** Names of the IANA database that PostgreSQL knows. */
      timeZones?: ReadonlySet<string>;
    }
  }
}

const names = z.array(z.object({ name: z.string() })).min(1);

/** In TypeScript, because each look into pg_timezone_names reads all its files, and PostgreSQL takes "Foo+3" for a zone. */
export const TimeZonesPlugin: GraphileConfig.Plugin = {
  name: "TimeZonesPlugin",
  version: "1.0.0",
  description: "Reads once which time zones PostgreSQL knows, so that arguments can be checked by name",
  gather: gatherConfig({
    namespace: "timeZones",
    async main(output, info) {
      const [pgService] = info.resolvedPreset.pgServices ?? [];
      if (!pgService) throw new Error("TimeZonesPlugin needs a pgService to read pg_timezone_names from.");
      const { rows } = await withPgClientFromPgService(pgService, null, (client) =>
        client.query({ text: "select name from pg_timezone_names where name <> 'Factory'" }),
      );
      output.timeZones = new Set(names.parse(rows).map(({ name }) => name));
    },
  }),
};
