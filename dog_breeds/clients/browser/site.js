"use strict";
// Answers without a service: worker.js runs the model in this browser. Uses opened() and complain()
// of the page.

const site = JSON.parse(document.getElementById("facts").textContent).site;
const THREADS = 4; // at most; more threads gain little, and each takes memory
const START = 3000; // milliseconds to wait until the service worker has started
const SILENCE = 60000; // milliseconds without progress until loading counts as failed
const ONLY_HTTPS = "Only addresses that begin with https:// work here.";
const NOT_READABLE =
  "This website does not answer, or does not let other pages read its images. " +
  "Save the image, and choose the file.";
const jobs = new Map(); // number of a job -> the functions that take its result or its error
let count = 0; // number of jobs so far
let worker, loading;

// Returns the answer about a File, a Blob or the text of a URL, and an address of the image for the
// page.
window.answerHere = async source => {
  const blob = typeof source === "string" ? await download(source) : source;
  const image = await decoded(blob);
  await load();
  return {
    answer: await inWorker("answer", image, [image.bitmap]),
    address: URL.createObjectURL(blob),
  };
};

// Returns the pixels of a file, upright and without colour management.
async function decoded(blob) {
  const bitmap = await opened(blob, {colorSpaceConversion: "none", premultiplyAlpha: "none"});
  const start = new Uint8Array(await blob.slice(0, 3).arrayBuffer());
  return {bitmap, jpeg: start.join() === "255,216,255"};
}

async function download(address) {
  if (!/^https:\/\//i.test(address)) throw Error(ONLY_HTTPS);
  let response;
  try {
    response = await fetch(address, {
      credentials: "omit",
      referrerPolicy: "no-referrer",
      signal: AbortSignal.timeout(30000),
    });
  } catch {
    throw Error(NOT_READABLE);
  }
  const {ok, status} = response;
  if (!ok) throw Error(`The website answered with status ${status}. Check the address.`);
  return response.blob();
}

function inWorker(job, input, transfer = []) {
  return new Promise((done, failed) => {
    jobs.set(++count, {done, failed});
    worker.postMessage({id: count, job, input}, transfer);
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
  await serviceWorker();
  const threads = window.crossOriginIsolated ? Math.min(THREADS, navigator.hardwareConcurrency) : 1;
  try {
    const result = await startWorker(threads).catch(error => {
      if (threads === 1) throw error;
      return startWorker(1); // some phones lack the memory for threads, or never start them
    });
    keep(result.wasm);
    return result;
  } finally {
    document.getElementById("loading")?.remove();
  }
}

function startWorker(threads) {
  worker?.terminate();
  worker = new Worker(site.files["worker.js"].address);
  let heard = Date.now();
  worker.onmessage = ({data}) => {
    heard = Date.now();
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
  let timer;
  const silence = new Promise((_, failed) => {
    const error = Error("This browser takes too long to start the model. Reload the page.");
    timer = setInterval(() => Date.now() - heard > SILENCE && failed(error), 1000);
  });
  const ready = inWorker("load", {site, threads});
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

// Waits for the service worker, which keeps the files and makes threads possible. A page can use
// threads only if the service worker has sent it with its headers. So the first visit loads the
// page twice.
async function serviceWorker() {
  const container = navigator.serviceWorker; // exists only with https and on localhost
  if (!container || container.controller) return;
  const registration = await container.register("service-worker.js").catch(() => null);
  if (!registration || registration.active) return;
  await new Promise(done => {
    container.addEventListener("controllerchange", done, {once: true});
    setTimeout(done, START);
  });
  const gains = !window.crossOriginIsolated && navigator.hardwareConcurrency > 1;
  if (container.controller && gains && !asked) {
    location.reload();
    await new Promise(() => {});
  }
}

// Asks the service worker to keep the files that this browser needs, and to delete those of older
// versions of the site.
function keep(wasm) {
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
  load().catch(error => asked || complain(error));
});
