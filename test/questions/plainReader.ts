import { randomUUID } from "node:crypto";
import pg from "pg";
import type { TestDatabase } from "../support/database.ts";

export type Cell = string | null;
export type PlainReader = { read(sql: string, tenantId: string): Promise<Cell[][]>; close(): Promise<void> };

/** Somebody who may read analytics_events, of every tenant, and nothing else of ours: no view, no function. */
export async function makePlainReader(database: TestDatabase): Promise<PlainReader> {
  const client = new pg.Client({ connectionString: database.urls.root });
  await client.connect();
  const role = `plain_reader_${randomUUID().slice(0, 8)}`;
  await client.query(`
    create role ${role} bypassrls;
    grant usage on schema public to ${role};
    grant select on public.analytics_events to ${role};
    set role ${role}`);
  return {
    async read(text, tenantId) {
      const { rows } = await client.query<Cell[]>({
        text,
        values: [tenantId],
        rowMode: "array",
        types: { getTypeParser: () => (value: string) => value },
      });
      return rows.map((row) => row.map(plainCell));
    },
    async close() {
      await client.query(`reset role; drop owned by ${role}; drop role ${role}`);
      await client.end();
    },
  };
}

/** A number without the zeros at its end; whatever else as it is. */
export function plainCell(value: unknown): Cell {
  if (value === null) return null;
  if (typeof value === "boolean") return value ? "t" : "f";
  const text = String(value);
  return /^-?\d+\.\d+$/.test(text) ? text.replace(/\.?0+$/, "") : text;
}

const WORDS = new Set(["columns", "timeZone", "freshness"]);

/** What an answer says, apart from words: its rows, each in the order of its fields, and what stands beside them. */
export function cellsOf(series: Record<string, unknown>): { rows: Cell[][]; rest: Cell[] } {
  const { rows, ...rest } = series;
  const flat = (value: unknown): Cell[] => {
    if (Array.isArray(value)) return value.flatMap(flat);
    return typeof value === "object" && value !== null
      ? Object.values(value).flatMap(flat)
      : [plainCell(value)];
  };
  return {
    rows: Array.isArray(rows) ? rows.map(flat) : [],
    rest: Object.entries(rest).flatMap(([key, value]) => (WORDS.has(key) ? [] : flat(value))),
  };
}
