import { waysToWait } from "../ways-to-wait.mjs";

/** Opens each way to wait when it is first used. */
export function opener(sessions) {
  const opened = new Map();
  process.once("disconnect", async () => {
    await Promise.all([...opened.values()].map((way) => way.end()));
  });
  return (name) => {
    const way = opened.get(name) ?? waysToWait[name](process.env.DATABASE_URL, sessions);
    opened.set(name, way);
    return way;
  };
}

/** Answers the parent's requests until the parent has ended. */
export function serve(handlers) {
  process.on("message", async ({ number, what, facts }) => {
    const reply = await handlers[what](facts).then(
      (answer) => ({ number, answer }),
      (error) => ({ number, error: error.stack }),
    );
    if (process.connected) process.send(reply);
  });
  process.once("disconnect", () => {
    // Exits even if closing the connections hangs.
    setTimeout(() => process.exit(1), 4_000).unref();
  });
}
