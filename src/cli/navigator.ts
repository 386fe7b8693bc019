/**
 * Has this process a `navigator`, as on Node.js 21 and later. To find out whether it runs in a Cloudflare Worker, node-postgres asks for
 * that, and if there is none, makes a `Response`: Node.js 20 then loads all of its `fetch`, which takes as long as the driver itself.
 */
export function provideNavigator(): void {
  if ("navigator" in globalThis) return;
  Object.assign(globalThis, { navigator: { userAgent: `Node.js/${process.versions.node}` } });
}
