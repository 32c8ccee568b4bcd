import { expect, it } from "@jest/globals";
import { storablePage } from "../tasks/connectors/storable.ts";

const order = {
  eventType: "order",
  eventName: "order_completed",
  sourceId: "order:1",
  value: "1.50",
  currency: "USD",
};
const page = (...events: object[]) =>
  storablePage({ events: events.map((event) => ({ ...order, ...event })), unparsable: [] }, "square:1");

it("names the source of every event", () => {
  expect(page({}).events).toEqual([{ ...order, source: "square:1" }]);
});

it("writes U+FFFD for what PostgreSQL cannot store, in keys too", () => {
  const { events } = page({ properties: { item: "Flat\0white", "k\0": ["\ud800"] } });
  expect(events[0]?.properties).toEqual({ item: "Flat\ufffdwhite", "k\ufffd": ["\ufffd"] });
});

it.each([
  ["a source id of 501 characters", { sourceId: "x".repeat(501) }, /sourceId/],
  ["a value that is no number", { value: "NaN" }, /value/],
  ["a value beyond all money", { value: `1${"0".repeat(30)}` }, /value/],
  ["a currency that is none", { currency: "dollars" }, /currency/],
  ["a timestamp that is none", { timestamp: "tomorrow" }, /timestamp/],
  ["no type", { eventType: "" }, /eventType/],
])("keeps an event with %s aside, with the reason, and the others in", (_case, bad, reason) => {
  const { events, unparsable } = page({}, bad);
  expect(events).toHaveLength(1);
  expect(unparsable).toEqual([
    expect.objectContaining({ reason: expect.stringMatching(reason), record: { ...order, ...bad } }),
  ]);
});
