import { chmod, chown, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { type ServerStatus, Visit } from "../../src/cli/own-server/visit.ts";
import { CliChild, type CliOptions, type CliResult, cli } from "./cli.ts";
import { processesWith, tag } from "./tagged-processes.ts";
import { until } from "./until.ts";

/**
 * A state folder of a user (`XDG_STATE_HOME`) for one test, without a PostgreSQL in it yet. At the end nothing may run there, nothing may
 * be left but the data, and then the folder is removed.
 */
export class UserState implements AsyncDisposable {
  /** The value of `XDG_STATE_HOME`. */
  readonly home: string;
  readonly #account: CliOptions["account"];

  private constructor(home: string, account: CliOptions["account"]) {
    this.home = home;
    this.#account = account;
  }

  /** @param options.account the user, if this process is root; default the current one */
  static async create({ account }: Pick<CliOptions, "account"> = {}): Promise<UserState> {
    // A short name, because the path of a socket in it has to fit.
    const home = await mkdtemp(join(tmpdir(), "pgl-"));
    if (account) await chown(home, account.uid, account.gid);
    // Root's server runs as another account.
    else await chmod(home, 0o711);
    return new UserState(home, account);
  }

  /** The folder of `pg-locker`'s own PostgreSQL in it. */
  get folder(): string {
    return join(this.home, "pg-locker");
  }

  /** How to run `pg-locker` without a database, with these variables added. */
  options(env: CliOptions["env"] = {}): CliOptions {
    return {
      account: this.#account,
      env: { XDG_STATE_HOME: this.home, PG_LOCKER_SERVER_IDLE_SECONDS: "60", ...tag(), ...env },
    };
  }

  cli(args: readonly string[], env: CliOptions["env"] = {}, more: CliOptions = {}): Promise<CliResult> {
    return cli(args, { ...this.options(env), ...more });
  }

  start(args: readonly string[], env: CliOptions["env"] = {}): CliChild {
    return CliChild.start(args, this.options(env));
  }

  /** Runs a command under the lock of the key `k`, until its standard input ends. */
  async hold(env: CliOptions["env"] = {}): Promise<CliChild> {
    const holder = this.start(["run", "k", "--", "sh", "-c", "echo runs; exec cat"], env);
    // The first command in a folder sets up a PostgreSQL.
    await holder.says("runs", { deadline: 40_000 });
    return holder;
  }

  /** The keeper's answer. */
  async status(): Promise<ServerStatus> {
    const visit = await Visit.open(join(this.folder, "keeper"));
    const answer = await visit?.ask({ wants: "status" }, { deadline: 10_000 });
    visit?.leave();
    if (answer?.is !== "status") throw new Error(`expected a status, got ${JSON.stringify(answer)}`);
    return answer.status;
  }

  /** All processes there: commands, keepers, and PostgreSQL. */
  processes(): { pid: number; command: string }[] {
    return processesWith(this.home);
  }

  /** The postmasters there. */
  servers(): number[] {
    return this.processes()
      .filter(({ command }) => command.includes(` -D ${this.folder}/`))
      .map(({ pid }) => pid);
  }

  /** Resolves when nothing runs there. */
  async isEmpty(): Promise<void> {
    const what = () => `processes: ${JSON.stringify(this.processes())}`;
    await until(() => this.processes().length === 0, { deadline: 20_000, interval: 50 }).catch(() => {
      throw new Error(`what runs in the folder does not end: ${what()}`);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.processes().length > 0)
        expect(await this.cli(["server", "stop", "--force"])).toMatchObject({ status: 0, stderr: "" });
      await this.isEmpty();
      const left = await readdir(this.folder, { recursive: true }).catch(() => []);
      expect(
        left.filter((name) => !/^(server\.log(\.old)?|socket|\d+|\d+\/data(\/.*)?)$/.test(name)),
      ).toEqual([]);
    } finally {
      for (const { pid } of this.processes()) process.kill(pid, "SIGKILL");
      await rm(this.home, { recursive: true, force: true, maxRetries: 5 });
    }
  }
}
