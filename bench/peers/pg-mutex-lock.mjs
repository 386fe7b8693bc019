// https://github.com/colonist4/pg-mutex-lock#readme: one object, which has one connection for all its locks and sends one
// statement for each acquire and each release. That of an acquire looks in `pg_locks` for what the session already has.
import createPgMutexLock from "pg-mutex-lock";

// CommonJS, compiled: its default export is a property.
const PGMutexLock = createPgMutexLock.default;

export const pgMutexLock = {
  title: "pg-mutex-lock",
  package: "pg-mutex-lock",
  on: "PostgreSQL",
  async start({ url }) {
    const { hostname, port, pathname, username, password } = new URL(url);
    const mutex = new PGMutexLock({
      database: {
        host: decodeURIComponent(hostname),
        port: Number(port || 5432),
        database: decodeURIComponent(pathname.slice(1)),
        user: decodeURIComponent(username),
        // It insists on one, also where the server asks for none.
        password: decodeURIComponent(password) || "none",
      },
    });
    return {
      caller: (key) => async () => {
        // Rejects when it is held.
        await mutex.acquireLock(key);
        if (!(await mutex.releaseLock(key))) throw new Error(`${key} was not held`);
      },
      connections: () => 1,
      end: () => mutex.end(),
    };
  },
};
