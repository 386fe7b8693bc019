// The keeper's program. Each folder has one keeper, which keeps the user's own PostgreSQL. The first command that needs it starts it.
//
//   node program.js use|find
//
// It starts the server; with `find` it only looks for one that runs. It answers every command, and stops the server when nobody has used it
// for long enough. If it is killed, the server keeps running, and the next command starts a keeper that finds it.
import { postgresInstallation } from "../../testing/index.ts";
import { claim } from "./claim.ts";
import { folderFailure, ownServerFolder } from "./folder.ts";
import { idleTimeOf } from "./idle.ts";
import { Keeper } from "./keeper.ts";

void main({ mayStart: process.argv[2] === "use" }).then((status) => {
  process.exitCode = status;
});

async function main(options: { mayStart: boolean }): Promise<number> {
  const folder = ownServerFolder();
  let keeper: Keeper | undefined;
  try {
    const idleTime = idleTimeOf();
    const mine = await claim(folder);
    // There is another keeper, which the command that started this one will find.
    if (mine === undefined) return 0;
    keeper = keep(new Keeper(mine, { folder, idleTime }));
    await keeper.run(await postgresInstallation({ copies: folder.path }), options);
    return 0;
  } catch (error) {
    // Without a keeper, nobody is told: the command shows the end of the log.
    console.error(keeper === undefined ? sentenceOf(error, folder.path) : error);
    await keeper?.fail(sentenceOf(error, folder.path));
    return 1;
  } finally {
    keeper?.leave();
  }
}

/** From now on, signals also stop the server; a terminal that goes away does not. */
function keep(keeper: Keeper): Keeper {
  process.on("SIGHUP", () => {});
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => keeper.interrupt());
  return keeper;
}

function sentenceOf(error: unknown, path: string): string {
  if (!(error instanceof Error)) return String(error);
  return "syscall" in error ? folderFailure(path, error).message : error.message;
}
