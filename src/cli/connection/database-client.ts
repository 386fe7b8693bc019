import type pg from "pg";
import { sentenceOf } from "../../contract/caught-error.ts";
import type { Target } from "./targets.ts";

/** The properties of a node-postgres client that its types don't declare. */
interface Inside {
  readonly connection: pg.Connection;
  host: string;
  port: number;
}

/** What the connections of one pool share. */
export interface Clients {
  /** The class of the clients, for the pool and for connections beside it. */
  readonly Client: typeof pg.Client;
  /** The server that the last connection was made to; before the first one, the server that would be tried first. */
  readonly target: Target;
  /** Closes every connection at once, and makes no more. */
  destroy(): void;
}

/** Where to connect. */
export interface Targets {
  /** The servers, in the order in which they are tried. */
  readonly targets: readonly [Target, ...Target[]];
  /** Whether a server that accepts no writes is passed over. */
  readonly isPrimary: boolean;
  /** The time limit of a connection, in milliseconds. */
  readonly timeout: number;
}

/** The share of a connection's time limit in which servers are tried; the rest is for the connection itself. */
const choosing = 0.8;

/**
 * Makes clients that connect to the first of the servers that answers and, with `isPrimary`, accepts writes. A separate connection finds
 * that server, which is then tried first from now on. A single server is connected to directly.
 *
 * @param driver node-postgres
 */
export function clientsOf(driver: typeof pg, { targets, isPrimary, timeout }: Targets): Clients {
  let [target] = targets;
  let isDestroyed = false;
  const live = new Set<pg.Client>();

  class DatabaseClient extends driver.Client {
    readonly #config: pg.ClientConfig;

    constructor(config: pg.ClientConfig = {}) {
      super(reaching(config, target));
      this.#config = config;
      live.add(this);
      this.once("end", () => live.delete(this));
    }

    override connect(): Promise<pg.Client>;
    override connect(callback: (error: Error) => void): void;
    override connect(callback?: (error: Error) => void): Promise<pg.Client> | undefined {
      if (targets.length === 1) {
        if (callback === undefined) return super.connect();
        super.connect(callback);
        return undefined;
      }
      const connected = this.#choose().then(() => super.connect());
      if (callback === undefined) return connected;
      // Called in a step of its own, so that what it throws is not taken for an error of the connection.
      connected.then(
        () => process.nextTick(callback as () => void),
        (error: Error) => process.nextTick(callback, error),
      );
      return undefined;
    }

    /** Finds the server, and points this client to it. */
    async #choose(): Promise<void> {
      const order = [target, ...targets.filter((each) => each !== target)];
      const problems: string[] = [];
      for (const each of order) {
        if (isDestroyed) throw new Error("The connection was ended before it was made");
        const problem = await problemOf(this.#config, each);
        if (problem !== undefined) {
          problems.push(`${each.host}:${each.port}: ${problem}`);
          continue;
        }
        target = each;
        const inside = this as unknown as Inside;
        Object.assign(inside, { host: each.address, port: each.port, ssl: each.ssl });
        Object.assign(inside.connection, { ssl: each.ssl });
        Object.assign((this as unknown as { connectionParameters: object }).connectionParameters, {
          host: each.address,
          port: each.port,
        });
        return;
      }
      throw new Error([...new Set(problems)].join("; "));
    }
  }

  /** Why a server can't be used; `undefined` if it can. */
  async function problemOf(config: pg.ClientConfig, each: Target): Promise<string | undefined> {
    const connectionTimeoutMillis = Math.max(500, (timeout * choosing) / targets.length);
    const probe = new driver.Client({ ...reaching(config, each), connectionTimeoutMillis });
    live.add(probe);
    probe.on("error", () => {});
    const status = new Map<string, string>();
    (probe as unknown as Inside).connection.on(
      "parameterStatus",
      ({ parameterName, parameterValue }: { parameterName: string; parameterValue: string }) => {
        status.set(parameterName, parameterValue);
      },
    );
    try {
      await probe.connect();
      // Reported at the start by PostgreSQL 14 and later. A server that reports nothing is assumed to be a primary, and checked later.
      const refuses =
        status.get("in_hot_standby") === "on" || status.get("default_transaction_read_only") === "on";
      return isPrimary && refuses ? "takes no writes" : undefined;
    } catch (error) {
      return sentenceOf(error);
    } finally {
      live.delete(probe);
      probe.end().catch(() => {});
      destroyLater(probe);
    }
  }

  return {
    Client: DatabaseClient as unknown as typeof pg.Client,
    get target() {
      return target;
    },
    destroy() {
      isDestroyed = true;
      for (const client of live) destroy(client);
    },
  };
}

function reaching(config: pg.ClientConfig, { address, port, ssl }: Target): pg.ClientConfig {
  // Set explicitly, because the pool hides the password from a copy.
  return { ...config, password: config.password, host: address, port, ssl };
}

function destroy(client: pg.Client): void {
  (client as unknown as Inside).connection.stream.destroy();
}

/** Milliseconds that a server has to close a connection after our goodbye. */
const farewell = 1_000;

function destroyLater(client: pg.Client): void {
  const timer = setTimeout(() => destroy(client), farewell);
  timer.unref();
  client.once("end", () => clearTimeout(timer));
}
