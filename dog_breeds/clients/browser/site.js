"use strict";
// Answers without a service: worker.js runs the model in this browser. Uses openImage(),
// showProblem() and requestCount of the page.

const site = JSON.parse(document.getElementById("facts").textContent).site;
const MAX_THREADS = 4; // more threads gain little, and each takes memory
const START_MS = 3000; // longest wait for the service worker to start
const SILENCE_MS = 60000; // without any progress for this time, loading counts as failed
const NOT_READABLE =
  "This website does not answer, or does not let other pages read its images. " +
  "Save the image, and choose the file.";
const jobs = new Map(); // number of a job -> the functions that take its result or its error
let jobCount = 0;
let worker, loading;

// Returns the answer about a File, a Blob or the text of a URL, and an address at which the page
// can show the image.
window.answerInBrowser = async source => {
  const blob = typeof source === "string" ? await download(source) : source;
  const image = await decodeImage(blob);
  await load();
  const answer = await callWorker("answer", image, [image.bitmap]);
  return {answer, address: URL.createObjectURL(blob)};
};

// Decodes an image file, upright and without colour management, as the handler does.
async function decodeImage(blob) {
  const bitmap = await openImage(blob, {colorSpaceConversion: "none", premultiplyAlpha: "none"});
  const start = new Uint8Array(await blob.slice(0, 3).arrayBuffer());
  return {bitmap, jpeg: start.join() === "255,216,255"};
}

async function download(address) {
  if (!/^https:\/\//i.test(address)) {
    throw Error("Only addresses that begin with https:// work here.");
  }
  const response = await fetch(address, {
    credentials: "omit",
    referrerPolicy: "no-referrer",
    signal: AbortSignal.timeout(30000),
  }).catch(() => {
    throw Error(NOT_READABLE);
  });
  if (!response.ok) {
    throw Error(`The website answered with status ${response.status}. Check the address.`);
  }
  return response.blob();
}

// Returns what the worker makes of a job. Objects in `transfer` move to the worker without a copy.
function callWorker(job, input, transfer = []) {
  return new Promise((done, failed) => {
    jobs.set(++jobCount, {done, failed});
    worker.postMessage({id: jobCount, job, input}, transfer);
  });
}

// Loads the model once, and again after a failure.
function load() {
  loading ??= start().catch(error => {
    loading = null;
    throw error;
  });
  return loading;
}

async function start() {
  await startServiceWorker();
  const cores = navigator.hardwareConcurrency;
  const threads = window.crossOriginIsolated ? Math.min(MAX_THREADS, cores) : 1;
  try {
    const result = await startWorker(threads).catch(error => {
      if (threads === 1) throw error;
      return startWorker(1); // some phones lack the memory for threads, or never start them
    });
    cacheFiles(result.wasm);
    return result;
  } finally {
    document.getElementById("loading")?.remove();
  }
}

function startWorker(threads) {
  worker?.terminate();
  worker = new Worker(site.files["worker.js"].address);
  let lastMessage = Date.now();
  worker.onmessage = ({data}) => {
    lastMessage = Date.now();
    if (data.progress) return showProgress(data.progress);
    const {done, failed} = jobs.get(data.id);
    jobs.delete(data.id);
    if ("error" in data) failed(Error(data.error));
    else done(data.result);
  };
  worker.onerror = event => {
    const reason = event.message || "its worker does not start";
    const error = Error(`This browser cannot run the model: ${reason}.`);
    for (const {failed} of jobs.values()) failed(error);
    jobs.clear();
  };
  // A worker that runs out of memory may say nothing at all, so watch the time as well
  let timer;
  const silence = new Promise((_, failed) => {
    const error = Error("This browser takes too long to start the model. Reload the page.");
    timer = setInterval(() => Date.now() - lastMessage > SILENCE_MS && failed(error), 1000);
  });
  const ready = callWorker("load", {site, threads});
  return Promise.race([ready, silence]).finally(() => clearInterval(timer));
}

function showProgress({received, total}) {
  let label = document.getElementById("loading");
  if (!label) {
    label = Object.assign(document.createElement("label"), {id: "loading", className: "soft"});
    label.append("", document.createElement("progress"));
    document.getElementById("status").before(label);
  }
  const [done, all] = [received, total].map(bytes => Math.round(bytes / 1e6));
  label.firstChild.textContent = `Loading the model: ${done} of ${all} MB`;
  Object.assign(label.lastChild, {max: total, value: received});
}

// Starts the service worker, which caches the files and makes threads possible. A page gets threads
// only if the service worker has sent it with its headers, so the first visit loads the page twice.
async function startServiceWorker() {
  const container = navigator.serviceWorker; // exists only with https and on localhost
  if (!container || container.controller) return;
  const registration = await container.register("service-worker.js").catch(() => null);
  if (!registration || registration.active) return;
  await new Promise(done => {
    container.addEventListener("controllerchange", done, {once: true});
    setTimeout(done, START_MS);
  });
  const gains = !window.crossOriginIsolated && navigator.hardwareConcurrency > 1;
  // Do not reload while the visitor waits for an answer
  if (container.controller && gains && !requestCount) {
    location.reload();
    await new Promise(() => {}); // never: do nothing more until the page is gone
  }
}

// Asks the service worker to cache the files that this browser needs, and to delete those of older
// versions of the site. `wasm` is the variant of LiteRT.js that this browser has loaded.
function cacheFiles(wasm) {
  const here = new URL("./", location).href;
  const needed = Object.keys(site.files).filter(
    name => !name.startsWith(site.litert) || name.startsWith(wasm.replace(/wasm$/, "")),
  );
  const addresses = names => [here, ...names.map(name => here + site.files[name].address)];
  const message = {
    all: addresses(Object.keys(site.files)),
    needed: addresses([...needed, `${site.litert}/litert.js`]),
  };
  navigator.serviceWorker?.ready.then(({active}) => active.postMessage(message));
}

document.addEventListener("DOMContentLoaded", () => {
  if (navigator.connection?.saveData) return; // load the model at the first photo instead
  load().catch(error => requestCount || showProblem(error));
});
