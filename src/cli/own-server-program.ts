// The program that keeps the PostgreSQL of the user's own: one for each folder, started by the first command that needs it.
//
//   node own-server-program.js use|find
//
// It starts the server, or (with `find`) takes only one that runs. It answers every command that comes, and stops the server when
// nobody has used it for long enough. Killed, it leaves the server as it is: the next command starts a keeper that finds it.
import { postgresInstallation } from "../testing/index.ts";
import { Failure } from "./failure.ts";
import { claim } from "./own-server-claim.ts";
import { folderFailure, ownServerFolder } from "./own-server-folder.ts";
import { idleTimeOf } from "./own-server-idle.ts";
import { Keeper } from "./own-server-keeper.ts";

process.exitCode = await main({ mayStart: process.argv[2] === "use" });

async function main(options: { mayStart: boolean }): Promise<number> {
  const folder = ownServerFolder();
  const mine = await claim(folder);
  // Another keeper is there: whoever has started this one goes to that.
  if (mine === undefined) return 0;
  const keeper = new Keeper(mine, { folder, idleTime: idleTimeOf() });
  process.on("SIGHUP", () => {});
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => keeper.interrupt());
  try {
    const installation = await postgresInstallation({ copies: folder.path });
    await keeper.run(installation, options);
    return 0;
  } catch (error) {
    console.error(error);
    await keeper.fail(sentenceOf(error, folder.path));
    return 1;
  } finally {
    keeper.leave();
  }
}

function sentenceOf(error: unknown, path: string): string {
  if (error instanceof Failure || !(error instanceof Error))
    return String(error instanceof Failure ? error.message : error);
  return "syscall" in error ? folderFailure(path, error).message : error.message;
}
