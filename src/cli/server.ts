import { plain, quote } from "../contract/plain-text.ts";
import type { Command } from "./command.ts";
import { exitStatus } from "./exit-status.ts";
import { Failure, usageFailure } from "./failure.ts";
import { type OwnServerFolder, ownServerFolder } from "./own-server/folder.ts";
import { spoken } from "./own-server/idle.ts";
import { askKeeper, failureOf } from "./own-server/own-server.ts";
import type { KeeperAnswer, ServerStatus } from "./own-server/visit.ts";
import { print, printJson } from "./print.ts";

/** `pg-locker server status|stop`: shows or stops the user's own PostgreSQL on this machine. */
export const server: Command = {
  name: "server",
  synopsis: "status|stop [--json] [--force]",
  summary: "look at your own PostgreSQL on this machine, or stop it",
  keys: 0,
  actions: ["status", "stop"],
  options: { json: { value: "none" }, force: { value: "none" } },
  help: `If no database is named, pg-locker uses a PostgreSQL of your own on this
machine. It starts when it is needed, is shared by everything that you run, and
stops when nobody has used it for ten minutes, or for as many seconds as
PG_LOCKER_SERVER_IDLE_SECONDS said at its start. It keeps its data in
$XDG_STATE_HOME/pg-locker, by default ~/.local/state (for root, /var/lib).

  status    show whether it runs, where, and who uses it; exits with 1 if it
            doesn't run
  stop      stop it now, unless it is in use: then this exits with 1

  --json    with status: print JSON
  --force   with stop: stop it even if it is in use; its locks are lost

Example:
  pg-locker server status`,
  async run({ values, positionals: [action] }) {
    const { json, force } = values;
    if (action === "stop" && json === true) throw usageFailure("--json goes with status, not with stop");
    if (action === "status" && force === true) throw usageFailure("--force goes with stop, not with status");
    const folder = ownServerFolder();
    if (action === "stop") return await stop(folder, { force: force === true });
    return await showStatus(folder, { asJson: json === true });
  },
};

async function showStatus(folder: OwnServerFolder, { asJson }: { asJson: boolean }): Promise<number> {
  const answer = await askKeeper(folder, { wants: "status" });
  if (answer === undefined) {
    const none = { state: "stopped", folder: folder.path };
    if (asJson) await printJson(none);
    else await print(nothingRuns(folder));
    return exitStatus.no;
  }
  if (answer.is !== "status") throw failureOf(folder, answer);
  if (asJson) await printJson(answer.status);
  else await print(lines(answer.status));
  return exitStatus.ok;
}

async function stop(folder: OwnServerFolder, { force }: { force: boolean }): Promise<number> {
  const answer = await askKeeper(folder, { wants: "stop", force });
  if (answer?.is === "in-use") throw new Failure(exitStatus.no, inUse(answer));
  if (answer !== undefined && answer.is !== "stopped") throw failureOf(folder, answer);
  await print(answer === undefined ? nothingRuns(folder) : `Stopped the PostgreSQL in ${plain(folder.path)}`);
  return exitStatus.ok;
}

function nothingRuns({ path }: OwnServerFolder): string {
  return `No PostgreSQL of your own runs in ${plain(path)}`;
}

function inUse({ users, sessions }: Extract<KeeperAnswer, { is: "in-use" }>): string {
  return `It is in use by ${usersOf(users, sessions)}: --force stops it anyway, and its locks are lost`;
}

function lines(status: ServerStatus): string {
  const { state, folder, keeper, idleTime, version, pid, since, sessions = [], users = 0 } = status;
  const server = [
    version === undefined ? "PostgreSQL" : `PostgreSQL ${version}`,
    ...(since === undefined ? [] : [`since ${since}`]),
    ...(pid === undefined ? [] : [`pid ${pid}`]),
    `kept by pid ${keeper}`,
  ];
  const left =
    status.idleTimeLeft === undefined ? "" : `: in ${spoken(Math.max(1_000, status.idleTimeLeft))}`;
  return [
    `${state.padEnd(8)} ${server.join(", ")}`,
    `folder   ${plain(folder)}`,
    `used by  ${usersOf(users, sessions)}`,
    `stops    when unused for ${spoken(idleTime)}${left}`,
  ].join("\n");
}

function usersOf(users: number, sessions: ServerStatus["sessions"] = []): string {
  if (users === 0 && sessions.length === 0) return "nobody";
  const names = [...new Set(sessions.map(({ applicationName }) => applicationName).filter((name) => name))];
  const shown = names.length === 0 ? "" : ` (${names.map(quote).join(", ")})`;
  return `${counted(users, "command")} and ${counted(sessions.length, "session")}${shown}`;
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}
