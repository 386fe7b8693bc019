/**
 * Gives this process a `navigator`, as Node.js 21 and later have. node-postgres looks for one to find out whether it runs in a Cloudflare
 * Worker; if there is none, it makes a `Response`, for which Node.js 20 loads all of `fetch`. That takes as long as loading the driver.
 */
export function provideNavigator(): void {
  if ("navigator" in globalThis) return;
  Object.assign(globalThis, { navigator: { userAgent: `Node.js/${process.versions.node}` } });
}
