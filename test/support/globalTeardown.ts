import { rm } from "node:fs/promises";

export default async function globalTeardown() {
  const running = globalThis.erpTestCluster;
  if (!running) return;
  await running.cluster.stop();
  await rm(running.dataDir, { recursive: true, force: true });
}
