import pg from "pg";
import { sentenceOf } from "../../contract/caught-error.ts";
import type { Target } from "./targets.ts";

/** What node-postgres has of a client, beside what its types say. */
interface Inside {
  readonly connection: pg.Connection;
  host: string;
  port: number;
}

/** What the connections of one pool have in common. */
export interface Clients {
  /** Makes them, for the pool and for whoever connects beside it. */
  readonly Client: typeof pg.Client;
  /** The server that the last connection was made to; before there is one, the first that would be tried. */
  readonly target: Target;
  /** Ends every connection now, without a farewell, and makes no other. */
  destroy(): void;
}

/** Of the time that a connection may take, the share in which servers are tried; the rest is for the connection itself. */
const choosing = 0.8;

/**
 * Connections to the first of some servers that answers, and that takes writes if `isPrimary`. Which one that is is found by a
 * connection of its own, and is tried first from then on. A single server is simply connected to.
 *
 * @param options.timeout of a connection, in milliseconds
 */
export function clientsOf(
  targets: readonly [Target, ...Target[]],
  { isPrimary, timeout }: { isPrimary: boolean; timeout: number },
): Clients {
  let [target] = targets;
  let isDestroyed = false;
  const live = new Set<pg.Client>();

  class DatabaseClient extends pg.Client {
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
      // In a step of its own: what it throws is not an error of the connection.
      connected.then(
        () => process.nextTick(callback as () => void),
        (error: Error) => process.nextTick(callback, error),
      );
      return undefined;
    }

    /** Finds the server, and becomes a client of that one. */
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

  /** Why a server is not the one, `undefined` if it is. */
  async function problemOf(config: pg.ClientConfig, each: Target): Promise<string | undefined> {
    const connectionTimeoutMillis = Math.max(500, (timeout * choosing) / targets.length);
    const probe = new pg.Client({ ...reaching(config, each), connectionTimeoutMillis });
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
      // Told at the start by PostgreSQL 14 and later; whoever doesn't tell is taken at its word later.
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
  // The pool hides the password from a copy.
  return { ...config, password: config.password, host: address, port, ssl };
}

function destroy(client: pg.Client): void {
  (client as unknown as Inside).connection.stream.destroy();
}

/** Milliseconds that a server has to close a connection that was taken leave of. */
const farewell = 1_000;

function destroyLater(client: pg.Client): void {
  const timer = setTimeout(() => destroy(client), farewell);
  timer.unref();
  client.once("end", () => clearTimeout(timer));
}
