// A separate host for a worker, as far as the network is concerned: a network namespace that reaches this machine by two links, one of
// which can vanish. Needs Linux, root and iproute2.
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";

/** Runs several commands in one process, because the proxy forwards nothing while it waits for them. */
function succeed(commands, ...options) {
  const input = commands.join("\n");
  return (
    spawnSync("ip", [...options, "-batch", "-"], { input, stdio: ["pipe", "ignore", "ignore"] }).status === 0
  );
}

export class Host {
  /** The prefix of a command that runs in the namespace. */
  prefix;
  /** This machine's addresses from inside the namespace: on the link that can vanish, and on the one that can't. */
  address;
  direct;
  #name;
  #links;

  constructor() {
    this.#name = `pgl${randomBytes(3).toString("hex")}`;
    this.prefix = ["ip", "netns", "exec", this.#name];
    // Two networks of four addresses each, from the range for benchmarks (RFC 2544).
    const [third, fourth] = randomBytes(2);
    const network = (at) => `198.18.${third}.${(fourth & 0xf8) + at}`;
    this.#links = ["a", "b"].map((letter, at) => ({
      here: `${this.#name}${letter}h`,
      there: `${this.#name}${letter}n`,
      address: network(4 * at + 1),
      theirs: network(4 * at + 2),
    }));
    [this.address, this.direct] = this.#links.map(({ address }) => address);
  }

  /** Creates the namespace. Returns whether this machine allows it. */
  start() {
    const here = this.#links.flatMap(({ here, there, address }) => [
      `link add ${here} type veth peer name ${there}`,
      `link set ${there} netns ${this.#name}`,
      `addr add ${address}/30 dev ${here}`,
      `link set ${here} up`,
    ]);
    const there = this.#links.flatMap(({ there, theirs }) => [
      `addr add ${theirs}/30 dev ${there}`,
      `link set ${there} up`,
    ]);
    if (succeed([`netns add ${this.#name}`, ...here]) && succeed(there, "-n", this.#name)) return true;
    this.end();
    return false;
  }

  /** Makes the first link drop every packet in both directions, silently. */
  vanish() {
    succeed([`link del ${this.#links[0].here}`]);
  }

  /** Replaces the host. Everything on it vanishes without closing its connections; the new host has the same addresses. */
  replace() {
    this.end();
    if (!this.start()) throw new Error("a network namespace could not be made again");
  }

  end() {
    const gone = this.#links.map(({ here }) => `link del ${here}`);
    succeed([...gone, `netns del ${this.#name}`], "-force");
  }
}
