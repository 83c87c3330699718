"use strict";
// Keeps the site's files, so that a second visit needs no network. Also adds the headers that
// browsers require for threads.

const CACHE = new URL(registration.scope).pathname; // a host may have several such sites
const PATIENCE = 3000; // milliseconds to wait for a new page before the kept one is shown
const WORKER_POLICY =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", event => event.waitUntil(clients.claim()));

// The page sends all addresses of its site, and those that this browser needs offline.
self.addEventListener("message", event => {
  const {all, needed} = event.data;
  event.waitUntil(
    (async () => {
      const cache = await caches.open(CACHE);
      for (const request of await cache.keys()) {
        if (!all.includes(request.url)) await cache.delete(request);
      }
      for (const address of needed) if (!(await cache.match(address))) await cache.add(address);
    })(),
  );
});

self.addEventListener("fetch", event => {
  const {request} = event;
  const address = new URL(request.url);
  if (request.method !== "GET" || !request.url.startsWith(registration.scope)) return;
  // Such an address contains the file's hash or LiteRT's version, so its content never changes
  const fixed = address.search || address.pathname.includes("/litert-");
  if (request.mode === "navigate") event.respondWith(page(event).then(withHeaders));
  else if (fixed) event.respondWith(file(event).then(response => withHeaders(response, request)));
});

// Returns the newest page, or the kept one if the network is missing or slow.
async function page(event) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(registration.scope);
  const newest = fetch(event.request, {cache: "no-cache"}).then(response => {
    if (response.ok) event.waitUntil(cache.put(registration.scope, response.clone()));
    return response;
  });
  if (!kept) return newest;
  const late = new Promise(done => setTimeout(done, PATIENCE, kept));
  const good = newest.then(response => (response.status < 500 ? response : kept)).catch(() => kept);
  return Promise.race([good, late]);
}

async function file(event) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(event.request.url);
  if (kept) return kept;
  const response = await fetch(event.request);
  if (response.ok) {
    const put = cache.put(event.request.url, response.clone());
    event.waitUntil(put.catch(() => {})); // the disk may be full
  }
  return response;
}

function withHeaders(response, request = null) {
  if (!response.ok) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  headers.set("X-Content-Type-Options", "nosniff");
  // The policy inside the page does not apply to workers
  if (request?.destination === "worker") headers.set("Content-Security-Policy", WORKER_POLICY);
  return new Response(response.body, {status: response.status, headers});
}
