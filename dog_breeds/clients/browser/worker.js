"use strict";
// Runs the model in a worker, so that the page stays responsive. It is a classic worker, because
// LiteRT.js calls importScripts(), which module workers do not have.

let loaded; // {answers, litert, model, rules, kernel}, see load()
const JOBS = {load, answer, run, modelPixels};

onmessage = async ({data: {id, job, input}}) => {
  try {
    postMessage({id, result: await JOBS[job](input)});
  } catch (error) {
    postMessage({id, error: error?.message || String(error)});
  }
};

// Loads LiteRT.js and the model. `site` has the files of the folder and the rules of the model, as
// site.py writes them into the page.
async function load({site, threads}) {
  const answers = await import(`./${site.files["answers.js"].address}`);
  const litert = await import(`./${site.litert}/litert.js`);
  const relaxed = await litert.supportsFeature("relaxedSimd");
  const threaded = threads > 1 && relaxed;
  const name = `litert_wasm${threaded ? "_threaded" : relaxed ? "" : "_compat"}_internal`;
  const wasm = `${site.litert}/${name}.wasm`;
  const total = site.files[wasm].bytes + site.files["model.tflite"].bytes;
  let received = 0;
  const progress = bytes => postMessage({progress: {received: (received += bytes), total}});
  const [wasmBinary, content] = await Promise.all(
    [wasm, "model.tflite"].map(name => verifiedFile(site.files[name], name, progress)),
  );
  // Without the next settings, the threads of LiteRT.js would run this file instead of its own, and
  // there would be one for each CPU
  const mainScriptUrlOrBlob = new URL(`${site.litert}/${name}.js`, location).href;
  const silent = () => {};
  self.Module = {wasmBinary, mainScriptUrlOrBlob, print: silent, printErr: silent};
  Object.defineProperty(navigator, "hardwareConcurrency", {value: threads});
  // Otherwise LiteRT.js looks for a GPU, and warns if there is none
  litert.Environment.create = async () => new litert.Environment({webGpuDevice: null});
  await litert.loadLiteRt(new URL(site.litert, location).href, {threads: threaded});
  const model = await litert.loadAndCompile(content, {
    accelerator: "wasm",
    cpuOptions: {numThreads: threaded ? threads : 1},
  });
  const {offset, length} = site.kernel || {};
  const kernel = site.kernel && new Float32Array(content.slice(offset, offset + 4 * length).buffer);
  loaded = {answers, litert, model, rules: site.rules, kernel};
  return {wasm, threads: threaded ? threads : 1};
}

// Returns the bytes of a file after comparing them with the hash that site.py wrote.
async function verifiedFile({address, bytes, integrity}, name, progress) {
  // Without https there is no crypto.subtle. fetch() can check the hash, too, but then gives no
  // progress.
  const options = crypto.subtle ? {} : {integrity};
  const content = await download(address, bytes, options, progress).catch(() => {
    throw Error(`The file ${name} could not be loaded. Check the connection and try again.`);
  });
  if (content && (!crypto.subtle || (await integrityOf(content)) === integrity)) return content;
  // A cached copy would be as damaged at the next attempt
  for (const cache of (await self.caches?.keys()) || []) {
    await (await caches.open(cache)).delete(address);
  }
  throw Error(`The file ${name} is damaged, or is being replaced. Reload the page.`);
}

async function integrityOf(content) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return `sha256-${btoa(String.fromCharCode(...digest))}`;
}

// Returns the content of a file, or null if its size is not `bytes`.
async function download(address, bytes, options, progress) {
  const response = await fetch(address, options);
  if (!response.ok) throw Error(response.status);
  const content = new Uint8Array(bytes);
  const reader = response.body.getReader(); // Safari cannot iterate over a body by `for await`
  let received = 0;
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return received === bytes ? content : null;
    if (received + value.length > bytes) return null;
    content.set(value, received);
    received += value.length;
    progress(value.length);
  }
}

async function answer(image) {
  const {answers, rules, kernel} = loaded;
  return answers.answer(run, modelPixels(image), rules, kernel);
}

// Returns the pixels that the model sees: the central share of an image over white, resized to a
// square. `jpeg` is whether the image comes from a JPEG file, which the handler decodes at a lower
// resolution if it is large.
function modelPixels({bitmap, jpeg}) {
  const {answers, rules} = loaded;
  const {width, height} = bitmap;
  // Draw strips, because browsers limit the area of a canvas
  const canvas = new OffscreenCanvas(width, Math.min(height, answers.LARGEST_STRIP));
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const strip = (start, end) => {
    context.fillStyle = "white";
    context.fillRect(0, 0, width, end - start);
    context.drawImage(bitmap, 0, start, width, end - start, 0, 0, width, end - start);
    return context.getImageData(0, 0, width, end - start).data;
  };
  const image = {strip, width, height, channels: 4};
  const scale = jpeg ? answers.jpegScale(width, height, rules.size, rules.share) : 1;
  const reduced = scale > 1 ? answers.reduced(image, scale) : image;
  const pixels = answers.resize(reduced, rules.size, rules.share);
  bitmap.close();
  return pixels;
}

// Runs the model. Returns its outputs by name, with the score and `upright` as numbers.
async function run(pixels) {
  const {litert, model, rules} = loaded;
  const input = new litert.Tensor(Float32Array.from(pixels), [1, rules.size, rules.size, 3]);
  const tensors = await model.run([input]);
  input.delete(); // tensors are in WebAssembly's memory, where nothing collects garbage
  const outputs = {};
  for (const [index, {name}] of model.getOutputDetails().entries()) {
    outputs[name] = Float32Array.from(await tensors[index].data());
    tensors[index].delete();
  }
  return {...outputs, score: outputs[rules.unknown_rule.score][0], upright: outputs.upright[0]};
}
