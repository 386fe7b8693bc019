// Takes the lock of KEY as many times as TIMES says, with the module of a page, and checks that nobody else is inside at the same time.
// stage.mjs MODULE before|both|after TIMES
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";

const [file, stage, times] = process.argv.slice(2);
const { [stage]: run, close } = await import(file);
const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
for (let i = 0; i < Number(times); i += 1) {
  await run(process.env.KEY, async () => {
    // A second holder that is inside fails with a duplicate key.
    await client.query("insert into inside values ($1, $2)", [process.env.KEY, stage]);
    await delay(10);
    await client.query("delete from inside where key = $1", [process.env.KEY]);
    await client.query("insert into turns values ($1, $2)", [process.env.KEY, stage]);
  });
}
await client.end();
await close();
