import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

/** A process that runs a program of `programs/` and does what it is asked; see `programs/serve.mjs`. */
export class Child {
  #process;
  #asked = new Map();
  #count = 0;

  constructor(program, url) {
    const file = fileURLToPath(new URL(`programs/${program}`, import.meta.url));
    this.#process = fork(file, { env: { ...process.env, DATABASE_URL: url } });
    this.#process.on("message", ({ number, answer, error }) => {
      const { resolve, reject } = this.#asked.get(number);
      this.#asked.delete(number);
      if (error === undefined) resolve(answer);
      else reject(new Error(`${program}: ${error}`));
    });
    this.#process.on("exit", (code, signal) => {
      const failure = new Error(`${program} ended with ${signal ?? `exit code ${code}`}`);
      for (const { reject } of this.#asked.values()) reject(failure);
    });
  }

  /** Resolves with the answer; rejects if the child fails or ends. */
  ask(what, facts = {}) {
    this.#count += 1;
    const number = this.#count;
    return new Promise((resolve, reject) => {
      this.#asked.set(number, { resolve, reject });
      this.#process.send({ number, what, facts });
    });
  }

  async end() {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const exited = once(this.#process, "exit");
    // The child closes its connections and exits; if it doesn't, it is killed.
    this.#process.disconnect();
    const late = setTimeout(() => this.#process.kill("SIGKILL"), 5_000);
    await exited;
    clearTimeout(late);
  }
}

/** Runs `work` with `count` children. They have ended when it resolves. */
export async function withChildren(count, program, url, work) {
  const children = Array.from({ length: count }, () => new Child(program, url));
  try {
    return await work(children);
  } finally {
    await Promise.all(children.map((child) => child.end()));
  }
}
