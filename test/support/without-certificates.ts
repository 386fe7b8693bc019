import type { TestProject } from "vitest/node";

declare module "vitest" {
  interface ProvidedContext {
    /** The value that `NODE_EXTRA_CA_CERTS` had, for programs that use a network; empty if it had none. */
    readonly extraCertificates?: string;
  }
}

/**
 * Removes the variable `NODE_EXTRA_CA_CERTS`. Node.js 20 reads the file that it names at each start, which can take longer than everything
 * else at a start, and a run starts Node.js a few thousand times.
 */
export function setup(project: TestProject): void {
  project.provide("extraCertificates", process.env["NODE_EXTRA_CA_CERTS"] ?? "");
  delete process.env["NODE_EXTRA_CA_CERTS"];
}
