import { berlin, kolkata, newYork, type PlainAnswers } from "./sql.ts";

/** Of "Advertising", "Restaurants in India" and "A start-up with hardly any data". */
export const otherSql: PlainAnswers = {
  "What do our ads cost, and what does a click?": {
    rows: `${newYork}
      select to_char(local, 'YYYY-MM'), sum(value), sum((properties ->> 'clicks')::numeric),
             round(sum(value) / sum((properties ->> 'clicks')::numeric), 10),
             round(sum((properties ->> 'clicks')::numeric) / sum((properties ->> 'impressions')::numeric), 10)
        from e
       where event_type = 'ad_insight' and local >= '2025-11-01' and local < '2026-03-01'
       group by 1
       order by 1`,
    rest: `${newYork}
      select round(sum(value) / sum((properties ->> 'clicks')::numeric), 10)
        from e
       where event_type = 'ad_insight' and properties ->> 'date' between '2025-11-01' and '2026-02-28'`,
  },
  "Which two campaigns bring back most for what they cost?": {
    rows: `${newYork},
      campaigns as (
        select properties ->> 'campaignName' as campaign, sum((properties ->> 'conversionValue')::numeric) as gain, sum(value) as spend
          from e
         where event_type = 'ad_insight' and properties ->> 'date' like '2026-02-%'
         group by 1
      ),
      ranked as (select *, row_number() over (order by gain / spend desc) as place from campaigns)
      select max(campaign) filter (where place < 3), row = 3, round(sum(gain) / sum(spend), 10), sum(spend)
        from (select *, least(place, 3) as row from ranked) r
       group by row
       order by row`,
    rest: `${newYork}
      select round(sum((properties ->> 'conversionValue')::numeric) / sum(value), 10)
        from e
       where event_type = 'ad_insight' and properties ->> 'date' like '2026-02-%'`,
  },
  "Week by week, what did the two most expensive campaigns cost, and all others together?": {
    rows: `${newYork},
      spending as (
        select (local::date - date '2026-02-08') / 7 as week, properties ->> 'campaignId' as campaign, value
          from e
         where event_type = 'ad_insight' and local >= '2026-02-08' and local < '2026-03-08'
      ),
      dearest as (
        select campaign, row_number() over (order by sum(value) desc) as place from spending group by campaign order by 2 limit 2
      )
      select date '2026-02-08' + 7 * s.week, d.campaign, d.campaign is null, sum(s.value)
        from spending s left join dearest d using (campaign)
       group by s.week, d.campaign, d.place
       order by s.week, d.place nulls last`,
    rest: `${newYork}
      select sum(value) from e where event_type = 'ad_insight' and properties ->> 'date' between '2026-02-08' and '2026-03-07'`,
  },
  "How do our fiscal years compare?": {
    rows: `${kolkata}
      select to_char(make_date(year, 4, 1)::timestamp at time zone 'Asia/Kolkata' at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), year,
             sum(value) filter (where event_name = 'order_completed'),
             sum(value) filter (where event_name in ('order_completed', 'refund_completed')),
             round(-sum(value) filter (where event_name = 'refund_completed') / sum(value) filter (where event_name = 'order_completed'), 10)
        from (select *, case when local < '2025-04-01' then 2024 else 2025 end as year from e) e
       where local >= '2025-02-11' and local < '2026-03-11'
       group by year
       order by year`,
  },
  "What did each restaurant make in each fiscal quarter?": {
    rows: `${kolkata}
      select to_char(date_trunc('quarter', local), 'YYYY-MM'), properties ->> 'locationId', sum(value)
        from e
       where event_name = 'order_completed' and local >= '2025-04-01' and local < '2026-01-01'
       group by 1, 2
       order by 1, 2`,
    rest: `${kolkata}
      select sum(value) from e where event_name = 'order_completed' and local >= '2025-04-01' and local < '2026-01-01'`,
  },
  "Through which channels did people order in the last three months?": {
    rows: `${kolkata},
      orders as (
        select to_char(local, 'YYYY-MM') as month, properties ->> 'channel' as channel, value
          from e
         where event_name = 'order_completed' and local >= '2025-12-01' and local < '2026-03-01'
      ),
      main as (select channel from orders group by channel order by count(*) desc limit 1)
      select month, main.channel, main.channel is null, count(*), round(avg(value), 10)
        from orders left join main using (channel)
       group by month, main.channel
       order by month, main.channel nulls last`,
  },
  "When is lunch, and what is it worth?": {
    rows: `${kolkata}
      select to_char(local, 'HH24'), count(*), round(avg(value), 10)
        from e
       where event_name = 'order_completed' and to_char(local, 'YYYY-MM') = '2026-02' and extract(hour from local) between 11 and 15
       group by 1
       order by 1`,
  },
  "What did Diwali do for us, against the week before?": {
    rows: `${kolkata},
      days as (select local::date as day, sum(value) as sold from e where event_name = 'order_completed' group by 1)
      select day, sold, (select sold from days before where before.day = days.day - 7)
        from days
       where day between '2025-10-15' and '2025-10-21'
       order by day`,
    rest: `${kolkata}
      select sum(value) filter (where local::date between '2025-10-15' and '2025-10-21'),
             sum(value) filter (where local::date between '2025-10-08' and '2025-10-14')
        from e where event_name = 'order_completed'`,
  },
  "On which days of the week do guests tip, and how much?": {
    rows: `${kolkata},
      orders as (
        select local, (properties ->> 'tip')::numeric as tip,
               row_number() over (partition by extract(isodow from local) order by (properties ->> 'tip')::numeric nulls last) as place,
               count(properties ->> 'tip') over (partition by extract(isodow from local)) as tipped
          from e
         where event_name = 'order_completed' and local >= '2025-12-01' and local < '2026-02-23'
      )
      select to_char(local, 'FMDAY'), count(*), count(tip), avg(tip) filter (where place in ((tipped + 1) / 2, tipped / 2 + 1))
        from orders
       group by extract(isodow from local), 1
       order by extract(isodow from local)`,
  },
  "How many orders are called off, and how large are they?": {
    rows: `${kolkata}
      select to_char(local, 'YYYY-MM'), sum((event_name = 'order_completed')::integer), sum((event_name = 'order_canceled')::integer),
             sum(case event_name when 'order_canceled' then value end), min(case event_name when 'order_canceled' then value end),
             max(case event_name when 'order_canceled' then value end)
        from e
       where event_type = 'order' and local >= '2025-10-01' and local < '2026-03-01'
       group by 1
       order by 1`,
    rest: `${kolkata}
      select count(*) from e where event_name = 'order_canceled' and local >= '2025-10-01' and local < '2026-03-01'`,
  },
  "How many visits became accounts and orders in the last week?": {
    rows: `${berlin}
      select day::date, count(*) filter (where event_type = 'visit'), count(*) filter (where event_type = 'signup'),
             count(*) filter (where event_name = 'order_completed'), coalesce(sum(value) filter (where event_name = 'order_completed'), 0)
        from generate_series(timestamp '2026-03-04', timestamp '2026-03-10', interval '1 day') day
        left join e on local::date = day::date
       group by day
       order by day`,
    rest: `${berlin}
      select sum(value) from e where event_name = 'order_completed' and local >= '2026-03-04' and local < '2026-03-11'`,
  },
  "And in January, before there was anything?": {
    rows: `${berlin}
      select week::date, count(id), coalesce(sum(value), 0), avg(value), avg(value), count(distinct subject)
        from generate_series(timestamp '2026-01-05', timestamp '2026-01-19', interval '7 days') week
        left join e on local >= week and local < week + interval '7 days'
       group by week
       order by week`,
    rest: `${berlin}
      select 3, count(*), avg(value) from e where local >= '2026-01-05' and local < '2026-01-26'`,
  },
  "Who visits us on what, apart from those that another site sent?": {
    rows: `${berlin}
      select properties ->> 'country', properties ->> 'device', count(*)
        from e
       where event_type = 'visit' and properties ->> 'channel' <> 'referral' and not properties ? 'campaignId'
         and local >= '2026-02-27' and local < '2026-03-11'
       group by 1, 2
       order by 1, 2`,
    rest: `${berlin}
      select count(*) from e
       where event_type = 'visit' and properties ->> 'channel' <> 'referral' and local >= '2026-02-27' and local < '2026-03-11'`,
  },
};
