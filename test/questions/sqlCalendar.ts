import { newYork, type PlainAnswers } from "./sql.ts";

/** Of "One complete request" and "By the calendar". */
export const calendarSql: PlainAnswers = {
  "How much did we sell on each of the last seven days, in dollars?": {
    rows: `${newYork}
      select to_char((local::date::timestamp at time zone 'America/New_York') at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
             local::date, false, sum(value), count(*), round(sum(value) / count(*), 10)
        from e
       where event_name = 'order_completed' and currency = 'USD' and local >= '2026-03-04' and local < '2026-03-11'
       group by local::date
       order by local::date`,
    rest: `${newYork}
      select count(distinct local::date), sum(value), count(*), round(sum(value) / count(*), 10)
        from e
       where event_name = 'order_completed' and currency = 'USD' and local >= '2026-03-04' and local < '2026-03-11'`,
  },
  "How much did we sell in each week of February, in dollars?": {
    rows: `${newYork}
      select date '2026-02-01' + 7 * week, sum(value), count(*)
        from (select *, (local::date - date '2026-02-01') / 7 as week from e where local >= '2026-02-01' and local < '2026-03-01') e
       where event_name = 'order_completed' and currency = 'USD'
       group by week
       order by week`,
    rest: `${newYork}
      select sum(value) from e
       where event_name = 'order_completed' and currency = 'USD' and to_char(local, 'YYYY-MM') = '2026-02'`,
  },
  "And in each of the last six whole months?": {
    rows: `${newYork}
      select to_char(local, 'YYYY-MM'), sum(value), count(*)
        from e
       where event_name = 'order_completed' and currency = 'USD' and local >= '2025-09-01' and local < '2026-03-01'
       group by 1
       order by 1`,
    rest: `${newYork}
      select sum(value) from e
       where event_name = 'order_completed' and currency = 'USD' and local >= '2025-09-01' and local < '2026-03-01'`,
  },
  "What was left after refunds in the last three quarters of the fiscal year that ended in January?": {
    rows: `${newYork}
      select to_char(q.begins at time zone 'America/New_York' at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
             to_char(q.begins, 'YYYY-MM'), sum(value)
        from (values (timestamp '2025-05-01', timestamp '2025-08-01'), ('2025-08-01', '2025-11-01'), ('2025-11-01', '2026-02-01')) as q (begins, ends)
        join e on local >= q.begins and local < q.ends
       where event_name in ('order_completed', 'refund_completed') and currency = 'USD'
       group by q.begins
       order by q.begins`,
    rest: `${newYork}
      select sum(value) from e
       where event_name in ('order_completed', 'refund_completed') and currency = 'USD' and local >= '2025-05-01' and local < '2026-02-01'`,
  },
  "And the calendar quarters of 2025 that we have as a whole?": {
    rows: `${newYork}
      select to_char(date_trunc('quarter', local) at time zone 'America/New_York' at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
             to_char(date_trunc('quarter', local), 'YYYY-MM'), sum(value)
        from e
       where event_name in ('order_completed', 'refund_completed') and currency = 'USD'
         and extract(year from local) = 2025 and extract(quarter from local) > 1
       group by date_trunc('quarter', local)
       order by date_trunc('quarter', local)`,
    rest: `${newYork}
      select sum(value) from e
       where event_name in ('order_completed', 'refund_completed') and currency = 'USD' and local >= '2025-04-01' and local < '2026-01-01'`,
  },
  "What did we sell in each fiscal year, in each currency?": {
    rows: `${newYork}
      select case when local < '2026-02-01' then '2025' else '2026' end, currency, sum(value), count(*)
        from e
       where event_name = 'order_completed' and local >= '2025-02-01' and local < '2026-03-11'
       group by 1, 2
       order by 1, 2`,
    rest: `${newYork}
      select null, count(*) from e where event_name = 'order_completed' and local >= '2025-02-01' and local < '2026-03-11'`,
  },
  "What did our British customers spend on each of the last five days, by London’s clock?": {
    rows: `
      select ("timestamp" at time zone 'Europe/London')::date, sum(value), count(*)
        from analytics_events
       where tenant_id = $1 and event_name = 'order_completed' and currency = 'GBP'
         and ("timestamp" at time zone 'Europe/London')::date between '2026-03-06' and '2026-03-10'
       group by 1
       order by 1`,
  },
  "How many customers ordered in each week that begins on Monday, and how many orders were that?": {
    rows: `${newYork}
      select date_trunc('week', local)::date, count(distinct properties ->> 'customerId'), count(*)
        from e
       where event_name = 'order_completed' and local >= '2026-02-09' and local < '2026-03-09'
       group by 1
       order by 1`,
    rest: `${newYork}
      select count(distinct properties ->> 'customerId'), count(*)
        from e
       where event_name = 'order_completed' and local >= '2026-02-09' and local < '2026-03-09'`,
  },
  "How did the evening of Black Friday go, quarter of an hour by quarter of an hour?": {
    rows: `${newYork}
      select to_char(q, 'YYYY-MM-DD"T"HH24:MI'), count(id), coalesce(sum(value), 0)
        from generate_series(timestamp '2025-11-28 20:00', timestamp '2025-11-28 21:45', interval '15 minutes') q
        left join e on local >= q and local < q + interval '15 minutes' and event_name = 'order_completed' and currency = 'USD'
       group by q
       order by q`,
  },
  "How many orders came in during each hour of the night in which the clocks went forward?": {
    rows: `
      select to_char(h at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), to_char(h at time zone 'America/New_York', 'YYYY-MM-DD"T"HH24:MI'),
             count(id)
        from generate_series(timestamptz '2026-03-08 05:00Z', timestamptz '2026-03-08 09:00Z', interval '1 hour') h
        left join analytics_events e
          on tenant_id = $1 and "timestamp" >= h and "timestamp" < h + interval '1 hour' and event_name = 'order_completed'
       group by h
       order by h`,
    rest: `
      select count(*) from analytics_events
       where tenant_id = $1 and event_name = 'order_completed' and "timestamp" >= '2026-03-08 05:00Z' and "timestamp" < '2026-03-08 10:00Z'`,
  },
  "At which hours of the evening do people order?": {
    rows: `${newYork}
      select to_char(local, 'HH24'), count(*)
        from e
       where event_name = 'order_completed' and to_char(local, 'YYYY-MM') = '2026-02' and extract(hour from local) >= 18
       group by 1
       order by 1`,
    rest: `${newYork}
      select 24, count(*) from e where event_name = 'order_completed' and to_char(local, 'YYYY-MM') = '2026-02'`,
  },
  "Which days of the week sell most?": {
    rows: `${newYork}
      select to_char(local, 'FMDAY'), sum(value), round(avg(value), 10)
        from e
       where event_name = 'order_completed' and currency = 'USD' and local >= '2025-12-07' and local < '2026-03-01'
       group by extract(dow from local), 1
       order by extract(dow from local)`,
    rest: `${newYork}
      select sum(value) from e
       where event_name = 'order_completed' and currency = 'USD' and local >= '2025-12-07' and local < '2026-03-01'`,
  },
};
