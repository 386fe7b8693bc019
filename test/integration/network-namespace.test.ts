import { describe, expect, test } from "vitest";
import { Child } from "../support/child.ts";
import { databaseUrl, holdersOf, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { NetworkNamespace } from "../support/network-namespace.ts";
import { costlyModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

// A holder on a host that vanishes: no FIN, no RST, no packet ever again.

describe.each(costlyModes)("with %s sessions", (sessions) => {
  describe.skipIf(!NetworkNamespace.allowed)(
    "a host that vanishes (skipped where no namespace can be made)",
    () => {
      test.each(["true", "false"])(
        "loses its lock, and knew before the next holder had it (autoRefresh: %s)",
        async (autoRefresh) => {
          await using host = await NetworkNamespace.create(databaseUrl());
          const key = uniqueKey();
          await using holder = Child.start("hold-enforced.mjs", {
            args: [key, JSON.stringify({ ttl: 600, autoRefresh: autoRefresh === "true" })],
            env: { DATABASE_URL: host.url, SESSIONS: sessions },
            prefix: host.prefix,
          });
          await holder.message((message) => "ready" in message);
          holder.send({ acquire: true });
          await holder.message((message) => "heldAt" in message);
          host.vanish();
          await using locker = createLocker({ sessions });
          const lock = await until(() => locker.tryAcquire(key), { interval: 1, deadline: 15_000 });
          const grantedAt = process.hrtime.bigint();
          await holder.message((message) => "aborted" in message && !("ended" in message));
          const heldAt = holder.messages.flatMap((each) =>
            each["heldAt"] ? [BigInt(String(each["heldAt"]))] : [],
          );
          expect(heldAt.length).toBeGreaterThan(0);
          expect(heldAt.every((at) => at < grantedAt)).toBe(true);
          expect(await holdersOf(lock.id)).toHaveLength(1);
          await lock.release();
        },
      );
    },
  );
});
