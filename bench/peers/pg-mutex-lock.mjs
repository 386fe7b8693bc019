// https://github.com/colonist4/pg-mutex-lock#readme: one object has one connection for all its locks, and sends one statement for each
// acquire and each release. The acquire's statement looks in `pg_locks` for the locks that the session already has.
import createPgMutexLock from "pg-mutex-lock";

// It is compiled CommonJS: its default export is a property.
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
        // It insists on a password, even if the server asks for none.
        password: decodeURIComponent(password) || "none",
      },
    });
    return {
      caller: (key) => async () => {
        // It rejects if the lock is held.
        await mutex.acquireLock(key);
        if (!(await mutex.releaseLock(key))) throw new Error(`${key} was not held`);
      },
      connections: () => 1,
      end: () => mutex.end(),
    };
  },
};
