import { z } from "zod";
import type { PageRequest } from "../connector.ts";

export const squareConfig = z.object({
  environment: z.enum(["production", "sandbox", "simulator"]),
  locationIds: z.array(z.string().min(1).max(50)).min(1).max(10),
  pageSize: z.int().min(1).max(500).default(100),
  /** How far back the first sync goes. */
  backfillDays: z.int().min(1).max(3650).default(365),
  /** The version of Square's API that the mapping was written against. */
  apiVersion: z.iso.date().default("2026-01-22"),
});
export type SquareConfig = z.output<typeof squareConfig>;

export const squareCredentials = z.object({ accessToken: z.string().min(1) });
export type SquareCredentials = z.output<typeof squareCredentials>;

/** Square's own hosts, for the engine's choice of `baseUrl`. */
export const squareHosts = {
  production: "https://connect.squareup.com",
  sandbox: "https://connect.squareupsandbox.com",
} as const;

export type SquareRequest<Checkpoint> = PageRequest<SquareConfig, SquareCredentials, Checkpoint>;
