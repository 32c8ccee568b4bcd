import { sideEffectWithPgClientTransaction } from "postgraphile/@dataplan/pg";
import { context, lambda, list, type SideEffectStep } from "postgraphile/grafast";
import { extendSchema } from "postgraphile/utils";
import { z } from "zod";
import { claimsOf } from "../src/auth/requests.ts";
import { readValues } from "../src/events/batch.ts";
import { admitEvents, type Receipt, writeBatch } from "../src/events/service.ts";

const createInput = z.object({
  events: z.array(z.record(z.string(), z.unknown())),
  onConflict: z.enum(["UPDATE", "REJECT"]).nullish(),
  atomic: z.boolean().nullish(),
});
const outcomes = ["ACCEPTED", "UPDATED", "DELETED", "DUPLICATE", "REJECTED"] as const;

/** In TypeScript, because to a composite type of SQL a field that is left out is null: the one keeps, the other clears. */
export const EventsPlugin = extendSchema((build) => {
  const { analytics_events: analyticsEvents } = build.pgResources;
  if (!analyticsEvents)
    throw new Error("EventsPlugin needs the table public.analytics_events, which is not in the schema.");
  const count = (outcome: (typeof outcomes)[number]) => ($receipts: SideEffectStep<unknown, Receipt[]>) =>
    lambda($receipts, (receipts) => receipts.filter((one) => one.outcome === outcome.toLowerCase()).length);
  return {
    typeDefs: /* GraphQL */ `
      """A field that is left out of a restatement keeps its value; null clears it."""
      input NewEventInput {
        """Category, such as order. Required for a new event."""
        eventType: String
        """What happened, such as order_completed. Required for a new event."""
        eventName: String
        """When it happened. Left out, it is now."""
        timestamp: Datetime
        """The main measure, in major units of currency."""
        value: BigFloat
        """ISO 4217."""
        currency: String
        """An object of at most 32,768 bytes of JSON. A whole number beyond 2^53 is rejected (inexact_number): send it as text."""
        properties: JSON
        """Where the event comes from."""
        source: String
        """The record's id at its source. One (source, sourceId) is one event, however often it is sent."""
        sourceId: String
        """Grows whenever the source restates the record: an older one never wins."""
        sourceVersion: BigInt
        """True: the record is gone at its source, and the event goes too. It comes back only with a newer sourceVersion."""
        deleted: Boolean
      }
      enum EventConflict {
        """Other content under a known (source, sourceId) updates the event."""
        UPDATE
        """It is rejected, with the code CONFLICT."""
        REJECT
      }
      enum EventOutcome {
        ACCEPTED
        UPDATED
        DELETED
        """It is there already, or gone already; or it deletes, without a version, what was never there."""
        DUPLICATE
        REJECTED
        """Sound, but another event of an atomic batch was rejected."""
        WITHHELD
      }
      type EventReceipt {
        """The event's place in the list, from 0."""
        index: Int!
        outcome: EventOutcome!
        id: UUID
        timestamp: Datetime
        """INVALID_INPUT or CONFLICT, when it was rejected."""
        code: String
        """Such as unknown_currency."""
        reason: String
        """To what is wrong in the event (RFC 6901)."""
        pointer: String
        """For people."""
        detail: String
      }
      input CreateAnalyticsEventsInput {
        events: [NewEventInput!]!
        """Default: UPDATE."""
        onConflict: EventConflict
        """All events, or none."""
        atomic: Boolean
      }
      type CreateAnalyticsEventsPayload {
        accepted: Int!
        updated: Int!
        deleted: Int!
        duplicate: Int!
        rejected: Int!
        """One for each event, in their order."""
        receipts: [EventReceipt!]!
      }
      extend type Mutation {
        """Writes events, each once. Needs events:write. Larger batches go to POST /v1/events."""
        createAnalyticsEvents(input: CreateAnalyticsEventsInput!): CreateAnalyticsEventsPayload
      }
    `,
    objects: {
      Mutation: {
        plans: {
          createAnalyticsEvents: (_$root, args) =>
            sideEffectWithPgClientTransaction(
              analyticsEvents.executor,
              list([context().get("identity"), args.getRaw("input")]),
              async (client, [identity, input]): Promise<Receipt[]> => {
                const { events, onConflict, atomic } = createInput.parse(input);
                const { tenant_id } = claimsOf(identity);
                const batch = readValues(events);
                const run = client.query.bind(client);
                await admitEvents(run, tenant_id, batch.size);
                return writeBatch(run, tenant_id, batch, {
                  onConflict: onConflict === "REJECT" ? "reject" : "update",
                  atomic: atomic ?? false,
                });
              },
            ),
        },
      },
      CreateAnalyticsEventsPayload: {
        plans: {
          accepted: count("ACCEPTED"),
          updated: count("UPDATED"),
          deleted: count("DELETED"),
          duplicate: count("DUPLICATE"),
          rejected: count("REJECTED"),
          receipts: ($receipts: SideEffectStep<unknown, Receipt[]>) =>
            lambda($receipts, (receipts) =>
              receipts.map(({ outcome, ...receipt }, index) => ({
                ...receipt,
                index,
                outcome: outcome.toUpperCase(),
              })),
            ),
        },
      },
    },
  };
}, "EventsPlugin");
