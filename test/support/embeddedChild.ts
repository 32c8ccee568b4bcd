import { startCluster } from "../../src/embedded/cluster.ts";
import { holdDataDir } from "../../src/embedded/dataDirLock.ts";

// Holds a DATA_DIR and, given a port, starts its cluster; says so in one line and stays until it is killed.
const [, , dataDir = "", superuserPassword = "", port] = process.argv;
try {
  await holdDataDir(dataDir, "the child of a test");
  const cluster = port ? await startCluster({ dataDir, superuserPassword, port: Number(port) }) : undefined;
  console.log(JSON.stringify({ held: true, port: cluster?.port }));
  setInterval(() => {}, 60_000);
} catch (error) {
  console.log(JSON.stringify({ held: false, error: String(error) }));
}
