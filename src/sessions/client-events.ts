import type { SessionClient } from "../contract/clients.ts";

type ClientEvent = "error" | "end" | "drain";
type Listener = (error: Error) => void;

/** The one function that listens to an event of a client, for all the listeners here. */
interface Hub {
  readonly listeners: Set<Listener>;
  readonly tell: Listener;
}

const hubs = new WeakMap<SessionClient, Map<ClientEvent, Hub>>();

/**
 * Listens to an event of a caller's client. However many locks the client carries, it gets one listener for each event: Node.js takes more
 * than ten for a leak, and warns (https://nodejs.org/api/events.html#emittersetmaxlistenersn).
 */
export function listenTo(client: SessionClient, event: ClientEvent, listener: Listener): void {
  const ofClient = hubs.get(client) ?? new Map<ClientEvent, Hub>();
  hubs.set(client, ofClient);
  let hub = ofClient.get(event);
  if (hub === undefined) {
    const listeners = new Set<Listener>();
    const tell = (error: Error): void => {
      for (const each of [...listeners]) each(error);
    };
    hub = { listeners, tell };
    ofClient.set(event, hub);
    // The three events have types of their own.
    client.on(event as "error", tell);
  }
  hub.listeners.add(listener);
}

/** Stops what {@link listenTo} began. A second call does nothing. */
export function stopListeningTo(client: SessionClient, event: ClientEvent, listener: Listener): void {
  const ofClient = hubs.get(client);
  const hub = ofClient?.get(event);
  if (hub === undefined || !hub.listeners.delete(listener) || hub.listeners.size > 0) return;
  ofClient?.delete(event);
  client.removeListener(event as "error", hub.tell);
}
