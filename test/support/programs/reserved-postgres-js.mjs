// Reserves a connection of postgres.js, and goes on to use it when it is told that its session has been ended.
import postgres from "postgres";

const sql = postgres(process.env.DATABASE_URL, { max: 1, onnotice: () => {} });
const reserved = await sql.reserve();
const pidOf = async (which) => (await which`select pg_backend_pid() as pid`)[0].pid;
console.log(JSON.stringify({ pid: await pidOf(reserved) }));
process.stdin.once("data", async () => {
  // Somebody else's statement, for which the pool reconnects.
  if (process.argv[2] === "others") await pidOf(sql);
  console.log(JSON.stringify({ again: await pidOf(reserved) }));
  process.exit(0);
});
