// A host of a worker's own, as far as the network goes: a namespace that reaches this machine by two links, one of which can
// vanish. Linux, as root, with iproute2.
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";

/** Several commands in one process: whoever waits for it forwards nothing meanwhile. */
function succeed(commands, ...options) {
  const input = commands.join("\n");
  return (
    spawnSync("ip", [...options, "-batch", "-"], { input, stdio: ["pipe", "ignore", "ignore"] }).status === 0
  );
}

export class Host {
  /** What a command is to begin with to run there. */
  prefix;
  /** Where this machine is reached from there: by the link that can vanish, and by the one that can't. */
  address;
  direct;
  #name;
  #links;

  constructor() {
    this.#name = `pgl${randomBytes(3).toString("hex")}`;
    this.prefix = ["ip", "netns", "exec", this.#name];
    // Two networks of four addresses each, of those that are for benchmarks (RFC 2544).
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

  /** Whether this machine lets us. */
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

  /** From now on every packet is lost by the first link, both ways, and nobody is told. */
  vanish() {
    succeed([`link del ${this.#links[0].here}`]);
  }

  /** Nothing of what was on it is left, nor says goodbye; the next one has its addresses. */
  replace() {
    this.end();
    if (!this.start()) throw new Error("a network namespace could not be made again");
  }

  end() {
    const gone = this.#links.map(({ here }) => `link del ${here}`);
    succeed([...gone, `netns del ${this.#name}`], "-force");
  }
}
