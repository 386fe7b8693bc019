// biome-ignore lint/correctness/useImportExtensions: it is the JavaScript that is imported, beside its declarations
export { type ProxyDirection, TcpProxy } from "./network-proxy.mjs";
