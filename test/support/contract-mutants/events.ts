import type { LockEventListener, LockEventName, LockEvents } from "../../../src/index.ts";
import { Broken, type Mutant, replaced } from "./mutant.ts";

const told = "a lock is reported as acquired, and as released by its holder";
const waits = "a wait is reported once, and then the grant";
const lapses = "a lock that lapses is reported as lost, with its signal's reason, and not as released";
const lapsesFirst =
  "a lock that lapses is reported as lost before it is reported as acquired by the next holder";
const closes = "a lock that close ends is reported as lost";
const stops = "a listener isn't called once it is removed, and what it throws changes nothing";
const refused = "an unknown event is refused, and so is a listener that is not a function";

type Tell = (event: LockEvents["acquired"] & { reason?: Error }) => void;

/** Changes what the listeners of an event are told. */
const heard = (
  does: string,
  caughtBy: string,
  { event, change }: { event: LockEventName; change: (tell: Tell) => Tell },
): Mutant =>
  replaced(does, caughtBy, (sound) => ({
    on: (name, listener) =>
      name === event
        ? sound.on(name, change(listener as Tell) as LockEventListener<typeof name>)
        : sound.on(name, listener),
  }));

/** A field that is told wrong. */
const wrong = (event: "acquired" | "released", field: string, value: unknown): Mutant =>
  heard(`${event} doesn't tell the right ${field}`, told, {
    event,
    change: (tell) => (facts) => tell({ ...facts, [field]: value }),
  });

const mute: (tell: Tell) => Tell = () => () => {};
const twice: (tell: Tell) => Tell = (tell) => (facts) => {
  tell(facts);
  tell(facts);
};

/** Mutants for events. */
export const eventMutants: readonly Mutant[] = [
  replaced("on never calls its listener", told, () => ({ on: () => () => {} })),
  heard("acquired is never told", told, { event: "acquired", change: mute }),
  heard("released is never told", told, { event: "released", change: mute }),
  heard("released is told twice", told, { event: "released", change: twice }),
  ...(["acquired", "released"] as const).flatMap((event) => [
    wrong(event, "id", 0n),
    wrong(event, "ttl", 0),
    wrong(event, "namespace", undefined),
  ]),
  wrong("acquired", "mode", "exclusive"),
  wrong("acquired", "fencingToken", undefined),
  wrong("acquired", "waited", -1),
  replaced("a listener of one event is told all", told, (sound) => ({
    on: (name, listener) => {
      const all: (event: LockEventName, listener: unknown) => () => void = sound.on as never;
      all(name === "acquired" ? "released" : "acquired", listener);
      return sound.on(name, listener);
    },
  })),
  heard("lost is told late", lapsesFirst, {
    event: "lost",
    change: (tell) => (facts) => void setTimeout(tell, 5, facts),
  }),
  heard("waiting is never told", waits, { event: "waiting", change: mute }),
  heard("waiting is told twice", waits, { event: "waiting", change: twice }),
  heard("waiting tells the wrong mode", waits, {
    event: "waiting",
    change: (tell) => (facts) => tell({ ...facts, mode: "exclusive" }),
  }),
  heard("lost is never told", lapses, { event: "lost", change: mute }),
  heard("lost tells another reason", lapses, {
    event: "lost",
    change: (tell) => (facts) => tell({ ...facts, reason: new Error("gone") }),
  }),
  replaced("a lock that lapses is told of as released", lapses, (sound) => ({
    on: (name, listener) => {
      const all: (event: LockEventName, listener: unknown) => () => void = sound.on as never;
      return all(name === "released" ? "lost" : name, listener);
    },
  })),
  heard("only what lapses is told of as lost", closes, {
    event: "lost",
    change: (tell) => (facts) => {
      if (facts.reason?.name === "LockExpiredError") tell(facts);
    },
  }),
  replaced("a listener isn't stopped", stops, (sound) => ({
    on: (name, listener) => {
      sound.on(name, listener);
      return () => {};
    },
  })),
  replaced("a listener stops all", stops, (sound) => {
    const all: Array<() => void> = [];
    return {
      on: (name, listener) => {
        all.push(sound.on(name, listener));
        return () => {
          for (const stop of all) stop();
        };
      },
    };
  }),
  replaced("a listener that throws fails the call", stops, (sound) => {
    let thrown: { error: unknown } | undefined;
    return {
      on: (name, listener) =>
        sound.on(name, (event) => {
          try {
            listener(event);
          } catch (error) {
            thrown = { error };
          }
        }),
      acquire: async (key, options) => {
        const lock = await sound.acquire(key, options);
        if (thrown !== undefined) throw new Broken("a listener threw", { cause: thrown.error });
        return lock;
      },
    };
  }),
  replaced("an event that there is not is never told", refused, (sound) => ({
    on: (name, listener) => (name === ("taken" as LockEventName) ? () => {} : sound.on(name, listener)),
  })),
  replaced("what is no listener is never told", refused, (sound) => ({
    on: (name, listener) => (typeof listener === "function" ? sound.on(name, listener) : () => {}),
  })),
];
