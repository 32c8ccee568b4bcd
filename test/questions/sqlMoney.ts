import { newYork, type PlainAnswers } from "./sql.ts";

/** Of "Money". */
export const moneySql: PlainAnswers = {
  "How do the currencies compare in February?": {
    rows: `${newYork}
      select currency, sum(value), count(*), round(avg(value), 10)
        from e
       where event_name = 'order_completed' and to_char(local, 'YYYY-MM') = '2026-02'
       group by currency
       order by currency`,
  },
  "What is a usual order, and what is a large one?": {
    // By hand, since percentile_cont computes in floating point: the mean of the middle ones; the first that nine tenths do not exceed.
    rows: `${newYork},
      ranked as (
        select to_char(local, 'YYYY-MM') as month, value,
               row_number() over (partition by to_char(local, 'YYYY-MM') order by value) as place,
               count(*) over (partition by to_char(local, 'YYYY-MM')) as orders
          from e
         where event_name = 'order_completed' and currency = 'USD' and local >= '2025-12-01' and local < '2026-03-01'
      )
      select month, round(sum(value) / count(*), 10),
             avg(value) filter (where place in ((orders + 1) / 2, orders / 2 + 1)),
             min(value) filter (where place >= 0.9 * orders),
             min(value), max(value)
        from ranked
       group by month
       order by month`,
    rest: `${newYork},
      ranked as (
        select value, row_number() over (order by value) as place, count(*) over () as orders
          from e
         where event_name = 'order_completed' and currency = 'USD' and local >= '2025-12-01' and local < '2026-03-01'
      )
      select avg(value) from ranked where place in ((orders + 1) / 2, orders / 2 + 1)`,
  },
  "Who are our five best customers, and how much of our dollars comes from the rest?": {
    rows: `${newYork},
      customers as (
        select properties ->> 'customerId' as customer, sum(value) as spent, count(*) as orders,
               row_number() over (order by sum(value) desc) as place
          from e
         where event_name = 'order_completed' and currency = 'USD' and local >= '2025-03-11' and local < '2026-03-11'
         group by 1
      )
      select max(customer) filter (where place <= 5), row > 5, sum(spent), sum(orders)
        from (select *, least(place, 6) as row from customers) c
       group by row
       order by row`,
    rest: `${newYork}
      select sum(value) from e
       where event_name = 'order_completed' and currency = 'USD' and local >= '2025-03-11' and local < '2026-03-11'`,
  },
  "How many customers ordered in each month, and how many orders was that?": {
    rows: `${newYork},
      once as (
        select to_char(local, 'YYYY-MM') as month, properties ->> 'customerId' as customer, count(*) as orders
          from e
         where event_name = 'order_completed' and local >= '2025-09-01' and local < '2026-03-01'
         group by 1, 2
      )
      select month, count(customer), sum(orders) from once group by month order by month`,
    rest: `${newYork}
      select count(*) from (
        select from e
         where event_name = 'order_completed' and local >= '2025-09-01' and local < '2026-03-01' and properties ? 'customerId'
         group by properties -> 'customerId'
      ) customers`,
  },
  "How much of our revenue do we give back?": {
    rows: `${newYork}
      select to_char(local, 'YYYY-MM'), sum(value) filter (where event_type = 'refund'),
             round(-sum(value) filter (where event_type = 'refund') / sum(value) filter (where event_type = 'order'), 10)
        from e
       where event_name in ('order_completed', 'refund_completed') and currency = 'USD' and local >= '2025-10-01' and local < '2026-03-01'
       group by 1
       order by 1`,
    rest: `${newYork}
      select round(
          (select sum(-value) from e where event_name = 'refund_completed' and currency = 'USD' and local >= '2025-10-01' and local < '2026-03-01')
        / (select sum(value) from e where event_name = 'order_completed' and currency = 'USD' and local >= '2025-10-01' and local < '2026-03-01'), 10)`,
  },
  "How does each of the last four weeks compare with the one four weeks before?": {
    rows: `${newYork},
      weeks as (
        select (local::date - date '2026-01-11') / 7 as week, sum(value) as net
          from e
         where event_name in ('order_completed', 'refund_completed') and currency = 'USD' and local >= '2026-01-11' and local < '2026-03-08'
         group by 1
      )
      select date '2026-01-11' + 7 * weeks.week, weeks.net, before.net
        from weeks join weeks before on before.week = weeks.week - 4
       order by weeks.week`,
    rest: `${newYork}
      select sum(value) filter (where local >= '2026-02-08' and local < '2026-03-08'),
             sum(value) filter (where local >= '2026-01-11' and local < '2026-02-08')
        from e where event_name in ('order_completed', 'refund_completed') and currency = 'USD'`,
  },
  "And the first week of March with the same days a year ago?": {
    rows: `${newYork}
      select '2026-' || to_char(local, 'MM-DD'), sum(value) filter (where extract(year from local) = 2026),
             sum(value) filter (where extract(year from local) = 2025)
        from e
       where event_name = 'order_completed' and currency = 'USD' and extract(month from local) = 3 and extract(day from local) <= 7
       group by 1
       order by 1`,
    rest: `${newYork}
      select sum(value) filter (where local::date between '2026-03-01' and '2026-03-07'),
             sum(value) filter (where local::date between '2025-03-01' and '2025-03-07')
        from e where event_name = 'order_completed' and currency = 'USD'`,
  },
  "Was February better than January?": {
    rows: `${newYork}
      select currency,
             sum(value) filter (where extract(month from local) = 2), sum(value) filter (where extract(month from local) = 1),
             count(*) filter (where extract(month from local) = 2), count(*) filter (where extract(month from local) = 1)
        from e
       where event_name = 'order_completed' and local >= '2026-01-01' and local < '2026-03-01'
       group by currency
       order by currency`,
    rest: `${newYork}
      select count(*) filter (where extract(month from local) = 2), count(*) filter (where extract(month from local) = 1)
        from e where event_name = 'order_completed' and local >= '2026-01-01' and local < '2026-03-01'`,
  },
  "Why do people send things back, and what does it cost?": {
    rows: `${newYork}
      select properties ->> 'reason', count(*), sum(value), round(sum(value) / count(*), 10)
        from e
       where event_type = 'refund' and currency = 'USD' and local >= '2025-03-01' and local < '2026-03-01'
       group by 1
       order by 1`,
  },
  "On which days of March was something refunded because it was damaged?": {
    rows: `${newYork}
      select local::date, count(*)
        from e
       where event_type = 'refund' and properties ->> 'reason' = 'damaged' and local >= '2026-03-01' and local < '2026-03-11'
       group by 1
       order by 1`,
    rest: `${newYork}
      select count(distinct local::date)
        from e
       where event_type = 'refund' and properties ->> 'reason' = 'damaged' and local >= '2026-03-01' and local < '2026-03-11'`,
  },
  "Do discounts make people buy more at once?": {
    rows: `${newYork}
      select to_char(local, 'YYYY-MM'), count(properties ->> 'discount'), sum((properties ->> 'discount')::numeric),
             round(avg(case when properties ? 'discount' then value end), 10), round(avg(case when not properties ? 'discount' then value end), 10)
        from e
       where event_name = 'order_completed' and currency = 'USD' and local >= '2025-12-01' and local < '2026-03-01'
       group by 1
       order by 1`,
  },
  "How many discounts were from 20 up to 50 dollars, on orders of three lines or more?": {
    rows: `${newYork}
      select to_char(local, 'YYYY-MM'), count(*), sum((properties ->> 'discount')::numeric), max((properties -> 'lineCount')::integer)
        from e
       where event_name = 'order_completed' and currency = 'USD' and local >= '2025-12-01' and local < '2026-03-01'
         and (properties ->> 'discount')::numeric >= 20 and (properties ->> 'discount')::numeric < 50
         and (properties -> 'lineCount')::integer >= 3
       group by 1
       order by 1`,
    rest: `${newYork}
      select count(*)
        from e
       where event_name = 'order_completed' and currency = 'USD' and local >= '2025-12-01' and local < '2026-03-01'
         and (properties ->> 'discount')::numeric >= 20 and (properties ->> 'discount')::numeric < 50
         and jsonb_array_length(properties -> 'items') >= 3`,
  },
  "How do people pay, and what does it cost us?": {
    rows: `${newYork}
      select properties ->> 'method', properties ->> 'cardBrand', count(*), sum(value), sum((properties ->> 'fee')::numeric)
        from e
       where event_name = 'payment_completed' and currency = 'USD' and to_char(local, 'YYYY-MM') = '2026-02'
       group by 1, 2
       order by 1, 2 nulls last`,
    rest: `${newYork}
      select sum((properties ->> 'fee')::numeric)
        from e
       where event_name = 'payment_completed' and currency = 'USD' and to_char(local, 'YYYY-MM') = '2026-02'`,
  },
  "How much money came in, and how much of it was not paid with a Visa or Mastercard?": {
    rows: `${newYork}
      select to_char(local, 'YYYY-MM'), sum(value),
             sum(value) - sum(value) filter (where properties ->> 'cardBrand' in ('visa', 'mastercard')),
             sum(value) - sum(value) filter (where properties ->> 'method' = 'card')
        from e
       where event_name = 'payment_completed' and currency = 'USD' and local >= '2025-12-01' and local < '2026-03-01'
       group by 1
       order by 1`,
  },
  "What does each of our sources report?": {
    rows: `${newYork}
      select source, event_type, count(*)
        from e
       where to_char(local, 'YYYY-MM') = '2026-02'
       group by 1, 2
       order by 1, 2`,
    rest: `${newYork} select count(*) from e where to_char(local, 'YYYY-MM') = '2026-02'`,
  },
};
