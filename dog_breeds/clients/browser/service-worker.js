"use strict";
// Caches the site's files, so that a second visit needs no network. Also adds the headers without
// which browsers allow no threads.

const CACHE = new URL(registration.scope).pathname; // one per site: a host may have several
const PATIENCE_MS = 3000; // time to wait for the newest page before showing the cached one
const WORKER_POLICY =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", event => event.waitUntil(clients.claim()));

// The page sends all addresses of its site, and those that this browser needs offline. Other
// addresses in the cache belong to older versions of the site.
self.addEventListener("message", event => event.waitUntil(update(event.data)));

async function update({all, needed}) {
  const cache = await caches.open(CACHE);
  for (const request of await cache.keys()) {
    if (!all.includes(request.url)) await cache.delete(request);
  }
  for (const address of needed) if (!(await cache.match(address))) await cache.add(address);
}

self.addEventListener("fetch", event => {
  const {request} = event;
  const address = new URL(request.url);
  if (request.method !== "GET" || !request.url.startsWith(registration.scope)) return;
  // Such an address contains the hash of the file, or LiteRT's version: its content never changes
  const fixed = address.search || address.pathname.includes("/litert-");
  if (request.mode === "navigate") event.respondWith(page(event).then(withHeaders));
  else if (fixed) event.respondWith(file(event).then(response => withHeaders(response, request)));
});

// Returns the newest page, or the cached one if there is no network or a slow one.
async function page(event) {
  const cache = await caches.open(CACHE);
  const cached = await cache.match(registration.scope);
  const newest = fetch(event.request, {cache: "no-cache"}).then(response => {
    if (response.ok) event.waitUntil(cache.put(registration.scope, response.clone()));
    return response;
  });
  if (!cached) return newest;
  const late = new Promise(done => setTimeout(done, PATIENCE_MS, cached));
  const good = newest.then(response => (response.status < 500 ? response : cached));
  return Promise.race([good.catch(() => cached), late]);
}

// Returns a file from the cache, or else from the network, and caches it.
async function file(event) {
  const cache = await caches.open(CACHE);
  const cached = await cache.match(event.request.url);
  if (cached) return cached;
  const response = await fetch(event.request);
  if (response.ok) {
    const put = cache.put(event.request.url, response.clone());
    event.waitUntil(put.catch(() => {})); // the disk may be full; the page works all the same
  }
  return response;
}

// Adds the headers that the host lacks. The first two make the page "cross-origin isolated".
function withHeaders(response, request = null) {
  if (!response.ok) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  headers.set("X-Content-Type-Options", "nosniff");
  // The policy in the page's meta element does not apply to workers
  if (request?.destination === "worker") headers.set("Content-Security-Policy", WORKER_POLICY);
  return new Response(response.body, {status: response.status, headers});
}
