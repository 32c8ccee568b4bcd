import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

/**
 * A Square with a great many orders, page by page, in its shape: made as they are asked for, so that what a sync costs is the
 * sync's.
 */
export async function startOrderProvider(total: number) {
  let calls = 0;
  const begin = Date.now() - 300 * 86_400_000;
  const step = (299 * 86_400_000) / total;
  const at = (index: number) => new Date(begin + index * step).toISOString();
  const order = (index: number) => {
    const money = (amount: number) => ({ amount, currency: "USD" });
    const amount = 100 + ((index * 7919) % 9_900);
    return {
      id: `ORDER${String(index).padStart(12, "0")}ZY`,
      location_id: "L1",
      state: "COMPLETED",
      version: 2,
      created_at: at(index),
      updated_at: at(index),
      closed_at: at(index),
      source: { name: "Square Point of Sale" },
      line_items: [{ uid: "1", name: "Flat white", quantity: "1", total_money: money(amount) }],
      total_money: money(amount),
      total_tax_money: money(0),
      total_discount_money: money(0),
      total_tip_money: money(0),
    };
  };
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk;
    calls++;
    response.writeHead(200, { "content-type": "application/json" });
    if (request.method !== "POST") return response.end("{}");
    const { cursor, limit } = JSON.parse(body) as { cursor?: string; limit: number };
    const from = Number(cursor ?? 0);
    const to = Math.min(from + limit, total);
    const orders = Array.from({ length: to - from }, (_, index) => order(from + index));
    response.end(JSON.stringify({ orders, ...(to < total ? { cursor: String(to) } : {}) }));
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls: () => calls,
    close: async () => {
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
    },
  };
}
