/** What eventSeries takes and gives. */
export const seriesTypes = /* GraphQL */ `
  enum EventGranularity {
    QUARTER_HOUR
    HOUR
    DAY
    """Begins on weekStart."""
    WEEK
    MONTH
    """Counted from fiscalYearStart."""
    QUARTER
    """Begins with fiscalYearStart."""
    YEAR
    """24 buckets, whatever the range."""
    HOUR_OF_DAY
    """Seven buckets, beginning with weekStart."""
    DAY_OF_WEEK
    """One bucket."""
    ALL
  }
  enum EventField {
    TYPE
    NAME
    SOURCE
    CURRENCY
    """What the event is about: a customer, an order, a campaign."""
    SUBJECT
  }
  enum EventAggregate {
    """How many events. 0 when there are none."""
    COUNT
    """0 when there is nothing to add."""
    SUM
    AVERAGE
    MIN
    MAX
    """The mean of the two middle ones where they differ. Exact."""
    MEDIAN
    """The smallest value that at least that share of the values does not exceed."""
    PERCENTILE
    """How many different ones. 0 when there are none."""
    DISTINCT_COUNT
  }
  enum EventOperand {
    VALUE
    SUBJECT
  }
  enum EventSeriesComparison {
    """
    The same length of time, right before. Whole months are compared with whole months, unless the series is by week or less.
    """
    PREVIOUS_PERIOD
    """A year before; for weeks and days of the week, 364 days, so that Mondays meet Mondays."""
    PREVIOUS_YEAR
  }
  enum EventSeriesSource {
    """All of it was rolled up before."""
    ROLLUPS
    """All of it was read from the events."""
    EVENTS
    BOTH
  }
  """All that are given must hold. In a list, null stands for events without."""
  input EventSeriesFilter {
    types: [String!]
    names: [String!]
    sources: [String]
    currencies: [String]
    subjects: [String]
    value: EventValueFilter
    properties: [EventPropertyFilter!]
  }
  """All that are given must hold; an event without a value fulfils none."""
  input EventValueFilter {
    atLeast: BigFloat
    below: BigFloat
  }
  """All that are given must hold."""
  input EventPropertyFilter {
    """A key of properties, at its first level."""
    name: String!
    in: [String]
    notIn: [String]
    exists: Boolean
    """Of properties that are numbers, or texts such as "12.50"."""
    atLeast: BigFloat
    below: BigFloat
  }
  """A field or a property."""
  input EventDimension {
    field: EventField
    property: String
  }
  input EventMeasure {
    """By which the answer calls it: a small letter, then letters, digits and underscores."""
    name: String!
    aggregate: EventAggregate!
    """What is aggregated. Default: VALUE."""
    of: EventOperand
    """A property instead: of numbers, or, for DISTINCT_COUNT, of whatever."""
    property: String
    """Above 0 and below 100, for PERCENTILE."""
    percentile: Float
    """Only events that also pass this."""
    filter: EventSeriesFilter
  }
  """The groups that are greatest over the whole range."""
  input EventSeriesTop {
    """1 to 100."""
    first: Int!
    """The measure or metric that ranks them. Default: the first one."""
    by: String
    """Whether the rest is one more group. Default: true. Without it, the totals, too, are those of the top alone."""
    others: Boolean
  }
  type EventSeriesColumn {
    name: String!
    """Of a metric: what it counts."""
    unit: String
    """Of a metric: NUMBER, MONEY or PERCENT."""
    format: String
  }
  type EventSeriesRow {
    """When the bucket begins; null for HOUR_OF_DAY, DAY_OF_WEEK and ALL."""
    start: Datetime
    """The bucket in the time zone of the series: 2026-03-08, 2026-03-08T14:00, 2026-03, 2026, 14, SUNDAY or all."""
    label: String!
    """One for each dimension that was asked for."""
    dimensions: [String]!
    """Whether this is the rest that is not among the top."""
    isOther: Boolean!
    """One for each column."""
    values: [BigFloat]!
    """The value of a measure or metric."""
    value(of: String!): BigFloat
    """The value of a measure or metric in what it is compared with."""
    compared(of: String!): BigFloat
  }
  type EventSeriesFreshness {
    source: EventSeriesSource!
    """When rollups were last computed. The answer is exact whenever that was: what changed since is read from the events."""
    rolledUpAt: Datetime
    """How many quarters of an hour of the range changed since then."""
    pendingQuarterHours: Int
  }
  type EventSeries {
    """The measures, then the metrics, in the order in which they were asked for."""
    columns: [EventSeriesColumn!]!
    """By bucket, then by rank or dimensions."""
    rows(
      """Default 1,000, at most 10,000."""
      first: Int
      offset: Int
    ): [EventSeriesRow!]!
    rowCount: Int!
    """Over the whole range; null where it would add different currencies."""
    total(of: String!): BigFloat
    comparedTotal(of: String!): BigFloat
    """IANA name."""
    timeZone: String!
    freshness: EventSeriesFreshness!
  }
  extend type Query {
    """
    Measures and metrics over time, exact at any moment. Money of different currencies is not added unless mixCurrencies says
    so.
    """
    eventSeries(
      from: Datetime!
      """Not included."""
      to: Datetime!
      granularity: EventGranularity!
      """IANA name. Default: the tenant's."""
      timeZone: String
      """0 (Sunday) to 6. Default: the tenant's."""
      weekStart: Int
      """A month, 1 to 12. Default: the tenant's."""
      fiscalYearStart: Int
      filter: EventSeriesFilter
      """At most three."""
      dimensions: [EventDimension!]
      """At most ten."""
      measures: [EventMeasure!]
      """Names of metrics, at most ten."""
      metrics: [String!]
      """Whether buckets without events are in the answer. Default: true."""
      fillGaps: Boolean
      top: EventSeriesTop
      compare: EventSeriesComparison
      mixCurrencies: Boolean
    ): EventSeries
  }
`;
