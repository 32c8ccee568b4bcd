export default async function globalTeardown() {
  await globalThis.erpTestCluster?.remove();
}
