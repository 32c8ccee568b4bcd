import type { SquareRecord, SquareSale } from "./squareData.ts";

export const tableNames = ["orders", "payments", "refunds"] as const;
export type TableName = (typeof tableNames)[number];
export const timeFields = ["created_at", "updated_at", "closed_at"] as const;
export type TimeField = (typeof timeFields)[number];

/** A version of a record: as text, because a simulator may hold a million of them. */
export type Row = Record<TimeField, number> & {
  id: string;
  location: string;
  text: string;
  newer?: Row;
  older?: Row;
  deletedAt?: number;
};

export type Table = ReturnType<typeof makeTable>;

export function makeTable() {
  const newest = new Map<string, Row>();
  /** Every version by a time, then by id; made when somebody first asks for that order. */
  const indexes = new Map<TimeField, Row[]>();

  const index = (field: TimeField): Row[] => {
    let rows = indexes.get(field);
    if (!rows) {
      rows = [];
      for (const row of newest.values())
        for (let version: Row | undefined = row; version; version = version.older) rows.push(version);
      rows.sort((a, b) => compare(field, a, b));
      indexes.set(field, rows);
    }
    return rows;
  };
  /** Whether this is the version that one sees at that time. */
  const isSeen = (row: Row, at: number) =>
    row.updated_at <= at &&
    !(row.newer && row.newer.updated_at <= at) &&
    !((row.deletedAt ?? Infinity) <= at);

  return {
    put(record: SquareRecord) {
      const older = newest.get(record.id);
      const row: Row = {
        id: record.id,
        location: record.location_id,
        created_at: Date.parse(record.created_at),
        updated_at: Date.parse(record.updated_at),
        closed_at: typeof record.closed_at === "string" ? Date.parse(record.closed_at) : 0,
        text: JSON.stringify(record),
        ...(older ? { older } : {}),
      };
      if (older) older.newer = row;
      newest.set(row.id, row);
      for (const [field, rows] of indexes) rows.splice(firstFrom(rows, field, row.id, row[field]), 0, row);
    },
    /** The record, or as it was so many versions ago. */
    get(id: string, versionsAgo = 0): SquareRecord | undefined {
      let row = newest.get(id);
      for (let ago = versionsAgo; row && ago > 0; ago--) row = row.older;
      return row && JSON.parse(row.text);
    },
    delete(id: string, at: number) {
      for (let row = newest.get(id); row; row = row.older) row.deletedAt = at;
    },
    seen: (at: number): SquareRecord[] =>
      [...newest.values()].flatMap((row) => {
        let version: Row | undefined = row;
        while (version && !isSeen(version, at)) version = version.older;
        return version ? [JSON.parse(version.text)] : [];
      }),
    /** The rows that one sees at that time, in order, from a place on. */
    *scan(field: TimeField, ascending: boolean, at: number, from?: Place): Generator<Row> {
      const rows = index(field);
      const step = ascending ? 1 : -1;
      let next = ascending ? 0 : rows.length - 1;
      if (from) next = ascending ? firstFrom(rows, field, ...from) : firstFrom(rows, field, ...from) - 1;
      for (let row = rows[next]; row; next += step, row = rows[next]) if (isSeen(row, at)) yield row;
    },
  };
}

/** An id, and the time by which it is sorted. */
export type Place = [id: string, time: number];

const compare = (field: TimeField, a: Row, b: Row) => a[field] - b[field] || (a.id < b.id ? -1 : 1);

/** The first row at the place, or behind it. */
function firstFrom(rows: Row[], field: TimeField, id: string, time: number): number {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    const row = rows[middle];
    if (row && (row[field] < time || (row[field] === time && row.id < id))) low = middle + 1;
    else high = middle;
  }
  return low;
}

export type Store = Record<TableName, Table>;

export const makeStore = (): Store => ({ orders: makeTable(), payments: makeTable(), refunds: makeTable() });

export function recordSale(store: Store, { order, payment, refund }: SquareSale) {
  store.orders.put(order);
  if (payment) store.payments.put(payment);
  if (refund) store.refunds.put(refund);
}
