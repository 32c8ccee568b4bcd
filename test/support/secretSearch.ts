import { appendFileSync, createReadStream, readFileSync } from "node:fs";
import { pipeline } from "node:stream/promises";
import pg from "pg";
import { to as copyTo } from "pg-copy-streams";
import { z } from "zod";
import { withClient } from "../../src/db/pools.ts";
import { searchesFile } from "./runFolder.ts";
import { MARK, secrets } from "./secrets.ts";

export type Finding = { place: string; secret: string; encoding: string };
type Pattern = { secret: string; encoding: string; bytes: Buffer };

/** How a secret may have been written down: as it is, in hex, in base64 at any place of a longer text, in a URL, in JSON. */
export function encodingsOf(secret: Buffer): Map<string, Buffer> {
  const text = secret.toString("latin1");
  const hex = secret.toString("hex");
  const inUrl = encodeURIComponent(text);
  const variants: [string, string][] = [
    ["hex", hex],
    ["HEX", hex.toUpperCase()],
    ["URL", inUrl],
    ["url", inUrl.replaceAll(/%../g, (code) => code.toLowerCase())],
    ["JSON", JSON.stringify(text).slice(1, -1)],
  ];
  for (const before of [0, 1, 2]) {
    // Cut to the characters that this secret alone decides, whatever stands before and behind it.
    const [skipped, whole] = [[0, 2, 3][before] ?? 0, Math.floor(((before + secret.length) * 8) / 6)];
    const padded = Buffer.concat([Buffer.alloc(before), secret]);
    variants.push([`base64+${before}`, padded.toString("base64").slice(skipped, whole)]);
    variants.push([`base64url+${before}`, padded.toString("base64url").slice(skipped, whole)]);
  }
  const encodings = new Map([["plain", secret]]);
  const seen = new Set([text]);
  for (const [name, written] of variants) {
    if (!seen.has(written)) encodings.set(name, Buffer.from(written, "latin1"));
    seen.add(written);
  }
  return encodings;
}

const patternsOf = (name: string, secret: Buffer): Pattern[] =>
  [...encodingsOf(secret)].map(([encoding, bytes]) => ({ secret: name, encoding, bytes }));

/** What to look for: the mark of the secrets that have it, and the others one by one. */
export class SecretSearch {
  readonly findings: Finding[] = [];
  tables = 0;
  bytes = 0;
  readonly #patterns: Pattern[];
  readonly #overlap: number;

  constructor(known = secrets()) {
    const mark = Buffer.from(MARK);
    const unmarked = known.filter(({ bytes }) => !bytes.includes(mark));
    this.#patterns = [
      ...patternsOf("the mark of all secrets", mark),
      ...unmarked.flatMap(({ name, bytes }) => patternsOf(name, bytes)),
    ];
    this.#overlap = Math.max(...this.#patterns.map(({ bytes }) => bytes.length)) - 1;
  }

  async stream(place: string, chunks: AsyncIterable<Buffer>): Promise<void> {
    const left = new Set(this.#patterns);
    let tail = Buffer.alloc(0);
    for await (const chunk of chunks) {
      this.bytes += chunk.length;
      const bytes = Buffer.concat([tail, chunk]);
      for (const pattern of left) {
        const at = bytes.indexOf(pattern.bytes);
        if (at < 0) continue;
        left.delete(pattern);
        const { secret, encoding } = pattern;
        this.findings.push({ place: `${place}: ${around(bytes, at)}`, secret, encoding });
      }
      tail = bytes.subarray(Math.max(0, bytes.length - this.#overlap));
    }
  }

  /** Every table of a database, whoever owns it. */
  async database(superuserUrl: string): Promise<void> {
    await withClient(superuserUrl, async (client) => {
      const { rows } = await client.query<{ database: string; schema: string; table: string }>(
        `select current_database() as database, n.nspname as schema, c.relname as "table"
           from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where c.relkind in ('r', 'm') and c.relpersistence <> 't' and n.nspname <> 'information_schema'
            and (n.nspname <> 'pg_catalog' or c.relname in ('pg_authid', 'pg_db_role_setting', 'pg_statistic'))
          order by 2, 3`,
      );
      for (const { database, schema, table } of rows) {
        const name = `${pg.escapeIdentifier(schema)}.${pg.escapeIdentifier(table)}`;
        const copy = client.query(copyTo(`copy (select * from ${name}) to stdout`));
        await pipeline(copy, (chunks: AsyncIterable<Buffer>) =>
          this.stream(`${database}.${schema}.${table}`, chunks),
        );
        this.tables++;
      }
    });
  }

  file(path: string): Promise<void> {
    return this.stream(path, createReadStream(path));
  }

  /** Counts what was searched; throws with every place that holds one. */
  report(): void {
    const { tables, bytes } = this;
    appendFileSync(searchesFile(), `${JSON.stringify({ tables, bytes })}\n`);
    if (this.findings.length === 0) return;
    const places = this.findings.map(({ place, secret, encoding }) => `${secret} (${encoding}) in ${place}`);
    throw new Error(`Secrets of the tests were written down:\n${places.join("\n")}`);
  }
}

const count = z.object({ tables: z.number(), bytes: z.number() });

/** What every search of the run has looked through. */
export function searchedInAll(): z.output<typeof count> {
  const lines = readFileSync(searchesFile(), "utf8").split("\n").filter(Boolean);
  const counts = lines.map((line) => count.parse(JSON.parse(line)));
  const sum = (pick: (one: z.output<typeof count>) => number) =>
    counts.reduce((total, one) => total + pick(one), 0);
  return { tables: sum(({ tables }) => tables), bytes: sum(({ bytes }) => bytes) };
}

/** What stands before it tells which column or message it is; the secret itself is not shown. */
const around = (bytes: Buffer, at: number) =>
  `${JSON.stringify(bytes.toString("latin1", Math.max(0, at - 80), at))} …`;
