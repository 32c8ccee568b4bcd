import type pg from "pg";

/** What a series is asked with, for SQL that calls no function of ours. */
export type PlainQuestion = {
  tenantId: string;
  from: string;
  to: string;
  zone: string;
  granularity: string;
  /** 0 (Sunday) to 6. */
  weekStart: number;
  fiscalYearStart: number;
  dimensions: readonly string[];
  /** A condition in SQL. */
  where?: string;
  /** Aggregates in SQL. */
  measures: readonly string[];
};

/** The buckets that have events, straight from analytics_events. */
export async function plainSeries(client: pg.ClientBase, question: PlainQuestion) {
  const { granularity, weekStart, fiscalYearStart, dimensions, measures } = question;
  const local = '"timestamp" at time zone $4';
  const weekShift = `interval '${(weekStart + 6) % 7} days'`;
  const monthShift = `interval '${fiscalYearStart - 1} months'`;
  // Where clocks change inside, the second part begins with the change.
  const short = (begin: string) => `(select min(m) from (values (${begin})) b (local)
    cross join lateral generate_series("timestamp" - (${local} - b.local), "timestamp", '30 seconds') m
    where m at time zone $4 - m at time zone 'UTC' = ${local} - "timestamp" at time zone 'UTC')`;
  // Of a time that clocks show twice, the first.
  const long = (begin: string) => `(select min(m) from (values (${begin})) b (local)
    cross join lateral (values (0), (20), (30), (60), (120)) o (minutes)
    cross join lateral (values ((b.local at time zone $4) - o.minutes * interval '1 minute')) c (m)
    where minutes = 0 or m at time zone $4 = b.local)`;
  const bucket: Record<string, string> = {
    QUARTER_HOUR: short(`date_bin('15 minutes', ${local}, '1970-01-01')`),
    HOUR: short(`date_trunc('hour', ${local})`),
    DAY: long(`date_trunc('day', ${local})`),
    WEEK: long(`date_trunc('week', (${local}) - ${weekShift}) + ${weekShift}`),
    MONTH: long(`date_trunc('month', ${local})`),
    QUARTER: long(`date_trunc('quarter', (${local}) - ${monthShift}) + ${monthShift}`),
    YEAR: long(`date_trunc('year', (${local}) - ${monthShift}) + ${monthShift}`),
    HOUR_OF_DAY: `to_char(${local}, 'HH24')`,
    DAY_OF_WEEK: `to_char(${local}, 'FMDAY')`,
    ALL: `'all' || left($4, 0)`,
  };
  const timed = !["HOUR_OF_DAY", "DAY_OF_WEEK", "ALL"].includes(granularity);
  const { rows } = await client.query({
    text: `
      select ${timed ? `to_char(bucket at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')` : "bucket"} as bucket,
             array[${[...dimensions, "null"].join(", ")}]::text[] as dimensions, array[${measures.map((one) => `(${one})::text`).join(", ")}] as values
        from (select *, ${bucket[granularity]} as bucket from analytics_events) e
       where tenant_id = $1 and "timestamp" >= $2 and "timestamp" < $3 and (${question.where ?? "true"})
       group by ${["bucket", ...dimensions].join(", ")}`,
    values: [question.tenantId, question.from, question.to, question.zone],
  });
  return new Map<string, string[]>(
    rows.map((row) => [JSON.stringify([row.bucket, row.dimensions.slice(0, -1)]), row.values]),
  );
}
