// Chooses the answer about an image. This is dog_breeds/serving/pixels.py, answers.py and
// explanation.py in JavaScript, step by step; those files explain the steps. tests/test_site.py
// compares both on the same inputs. Pixels are RGB bytes, size x size x 3, row by row.

const BORDER_TOLERANCE = 16; // of 255: largest distance of a border's pixels from its colour
const BORDER_SHARE = 0.75; // smallest share of a row or column in the border's colour
const SMALLEST_INSIDE = 1 / 6; // of a side; below it, the image is nothing but border
const LARGEST_INSIDE = 0.8; // of the area; above it, the image has no border
const STRIP = 256; // rows that resize() reads at once
export const LARGEST_STRIP = 8 * STRIP; // rows that reduced() reads at its largest scale
const PRECISION = 2 ** 22; // Pillow's weights are whole numbers of this fraction

// Returns the answer about pixels, {prediction, known, ...}, in the form of lambda_function.py with
// "explain": true. `run` is an async function from pixels to {probabilities, score, upright, map}.
// `rules` are the rules of the model file. `kernel` has the head's weights (Float32Array, breeds x
// depth), or is null if the file cannot explain.
export async function answer(run, pixels, rules, kernel) {
  const best = await bestPrediction(run, pixels, rules);
  const given = answerFor(best, rules);
  if (kernel) {
    const depth = kernel.length / rules.classes.length;
    const breed = best.probabilities.indexOf(Math.max(...best.probabilities));
    const cells = evidence(best.map, kernel.subarray(breed * depth, (breed + 1) * depth));
    given.explanation = placeInImage(cells, best.box, best.turned);
    given.explanation_share = rules.share;
  }
  return given;
}

// Returns the attempt with the highest score if it is known, and the first attempt otherwise.
// Further attempts show the image without borders, and turned.
export async function bestPrediction(run, pixels, rules) {
  const attempts = [];
  async function attempt(view, box = null, turned = 0) {
    const outputs = await run(view);
    const known = outputs.score >= rules.unknown_rule.threshold;
    attempts.push({...outputs, pixels: view, known, box, turned});
  }

  await attempt(pixels);
  const box = attempts[0].known ? null : insideBorders(pixels, rules.size);
  if (box) await attempt(cutOut(pixels, box, rules.size), box);
  const last = attempts.at(-1);
  if (last.upright < 0) {
    for (const turned of [90, 180, 270]) {
      await attempt(quarterTurns(last.pixels, turned / 90, rules.size, 3), last.box, turned);
    }
  }
  const counting = attempts.filter(({turned, upright}) => !turned || upright >= 0);
  const best = counting.reduce((a, b) => (b.score > a.score ? b : a));
  return best.known ? best : attempts[0];
}

export function answerFor(best, rules) {
  const ranking = rules.classes
    .map((breed, index) => [breed, best.probabilities[index]])
    .sort((a, b) => b[1] - a[1]);
  const given = {
    prediction: Object.fromEntries(
      ranking.map(([breed, probability]) => [breed, Math.round(probability * 1e6) / 1e6]),
    ),
    known: best.known,
  };
  if (best.known && rules.candidates) {
    const likely = ([, probability], place) =>
      place === 0 || probability >= rules.candidates.threshold;
    given.candidates = ranking.filter(likely).map(([breed]) => breed);
  }
  if (best.box) given.cropped = true;
  if (best.turned) given.turned = best.turned;
  return given;
}

// --- Views of an image ---

// Returns the box inside plain borders, [left, top, right, bottom] as shares of the sides, or null
// without such borders.
export function insideBorders(pixels, size) {
  const edge = [];
  for (let i = 0; i < size; i++) edge.push(i, (size - 1) * size + i, i * size, i * size + size - 1);
  const bins = new Map(); // coarse colour -> the edge's pixels of that colour
  for (const place of edge) {
    const colour = pixels.subarray(3 * place, 3 * place + 3);
    const [red, green, blue] = colour.map(value => value / BORDER_TOLERANCE); // rounds down
    const coarse = 256 * red + 16 * green + blue;
    if (!bins.has(coarse)) bins.set(coarse, []);
    bins.get(coarse).push(place);
  }
  const [, most] = [...bins].sort((a, b) => b[1].length - a[1].length || a[0] - b[0])[0];
  const colour = [0, 1, 2].map(i => median(most.map(place => pixels[3 * place + i])));
  const isBorder = place =>
    colour.every((value, i) => Math.abs(pixels[3 * place + i] - value) <= BORDER_TOLERANCE);
  const border = Array.from({length: size * size}, (_, place) => isBorder(place));
  const isInside = flags => flags.filter(Boolean).length / flags.length < BORDER_SHARE;
  const rows = Array.from({length: size}, (_, y) => border.slice(y * size, (y + 1) * size));
  const [top, bottom] = longestRun(rows.map(isInside));
  if (!bottom) return null;
  const [left, right] = longestRun(
    rows[0].map((_, x) => isInside(rows.slice(top, bottom).map(row => row[x]))),
  );
  const height = bottom - top;
  const width = right - left;
  if (Math.min(height, width) < SMALLEST_INSIDE * size) return null;
  if (height * width > LARGEST_INSIDE * size ** 2) return null;
  return [left / size, top / size, right / size, bottom / size];
}

function median(values) {
  const sorted = values.sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return (sorted[Math.ceil(middle) - 1] + sorted[Math.floor(middle)]) / 2;
}

// Returns start and end of the first longest run of true values, or [0, 0] if there is none.
export function longestRun(flags) {
  let longest = [0, 0];
  let start = 0;
  flags.forEach((flag, i) => {
    if (!flag) start = i + 1;
    else if (i + 1 - start > longest[1] - longest[0]) longest = [start, i + 1];
  });
  return longest;
}

// Returns the pixels inside a box, scaled to the whole size.
export function cutOut(pixels, box, size) {
  const [left, top, right, bottom] = box.map(share => Math.round(share * size));
  const inside = new Uint8Array((bottom - top) * (right - left) * 3);
  for (let y = top; y < bottom; y++) {
    inside.set(
      pixels.subarray(3 * (y * size + left), 3 * (y * size + right)),
      3 * (y - top) * (right - left),
    );
  }
  const strip = (start, end) =>
    inside.subarray(3 * start * (right - left), 3 * end * (right - left));
  return resize({strip, width: right - left, height: bottom - top, channels: 3}, size);
}

// Turns a square of cells clockwise by quarter turns. Each cell has `values` numbers.
export function quarterTurns(cells, turns, side, values = 1) {
  let turned = cells;
  for (let turn = 0; turn < turns % 4; turn++) {
    const before = turned;
    turned = new before.constructor(before.length);
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        for (let i = 0; i < values; i++) {
          turned[values * (y * side + x) + i] = before[values * ((side - 1 - x) * side + y) + i];
        }
      }
    }
  }
  return turned;
}

// --- An image as the model sees it ---

// Returns the scale, 1, 2, 4 or 8, by which Pillow reduces a JPEG of this size for the model.
export function jpegScale(width, height, size, share) {
  const side = Math.ceil(size / share);
  const most = Math.max(1, Math.min(width, height) / side);
  return [8, 4, 2, 1].find(scale => scale <= most);
}

// Reduces an image by a whole number: each pixel is the mean of a block. Image and result have the
// form {strip, width, height, channels}; resize() explains strip.
export function reduced({strip, width, height, channels}, scale) {
  const narrow = Math.ceil(width / scale);
  const smallerStrip = (start, end) => {
    const top = start * scale;
    const bottom = Math.min(end * scale, height);
    const pixels = strip(top, bottom);
    const sums = new Uint32Array((end - start) * narrow * 3);
    const counts = new Uint32Array((end - start) * narrow);
    for (let y = top; y < bottom; y++) {
      for (let x = 0; x < width; x++) {
        const target = (Math.floor(y / scale) - start) * narrow + Math.floor(x / scale);
        counts[target]++;
        const place = ((y - top) * width + x) * channels;
        for (let i = 0; i < 3; i++) sums[3 * target + i] += pixels[place + i];
      }
    }
    return Uint8Array.from(sums, (sum, i) => Math.round(sum / counts[Math.floor(i / 3)]));
  };
  return {strip: smallerStrip, width: narrow, height: Math.ceil(height / scale), channels: 3};
}

// Returns the central `share` of both sides of an image, resized to size x size as Pillow does it
// (bilinear, antialiased). `strip(start, end)` returns the rows from `start` to before `end`, with
// 3 or 4 bytes a pixel. So a large photo is never in memory as a whole.
export function resize({strip, width, height, channels}, size, share = 1) {
  const columns = weights(width, size, share);
  const rows = weights(height, size, share);
  const first = rows[0].start;
  const last = Math.max(...rows.map(({start, factors}) => start + factors.length));
  // All rows that count, already at the final width
  const narrow = new Uint8Array((last - first) * size * 3);
  for (let top = first; top < last; top += STRIP) {
    const bottom = Math.min(top + STRIP, last);
    const pixels = strip(top, bottom);
    for (let y = top; y < bottom; y++) {
      columns.forEach(({start, factors}, x) => {
        const place = ((y - top) * width + start) * channels;
        weigh(pixels, place, channels, factors, narrow, ((y - first) * size + x) * 3);
      });
    }
  }
  const result = new Uint8Array(size * size * 3);
  rows.forEach(({start, factors}, y) => {
    for (let x = 0; x < size; x++) {
      const place = ((start - first) * size + x) * 3;
      weigh(narrow, place, 3 * size, factors, result, (y * size + x) * 3);
    }
  });
  return result;
}

// Adds up pixels, `step` bytes apart, times their factors.
function weigh(from, place, step, factors, to, target) {
  let red = PRECISION / 2,
    green = red,
    blue = red;
  for (let i = 0; i < factors.length; i++, place += step) {
    red += from[place] * factors[i];
    green += from[place + 1] * factors[i];
    blue += from[place + 2] * factors[i];
  }
  to[target] = Math.min(255, red / PRECISION);
  to[target + 1] = Math.min(255, green / PRECISION);
  to[target + 2] = Math.min(255, blue / PRECISION);
}

// Returns for each of `size` new pixels the old ones that it consists of, [{start, factors}].
// Math.fround, because Pillow stores the box as 32-bit floats.
function weights(length, size, share) {
  const left = (length * (1 - share)) / 2;
  const start = Math.fround(left);
  const end = Math.fround(length - left);
  const scale = Math.fround(end - start) / size;
  const support = Math.max(scale, 1);
  return Array.from({length: size}, (_, i) => {
    const centre = start + (i + 0.5) * scale;
    const from = Math.max(Math.trunc(centre - support + 0.5), 0);
    const to = Math.min(Math.trunc(centre + support + 0.5), length);
    const triangle = Array.from({length: to - from}, (_, x) =>
      Math.max(0, 1 - Math.abs((x + from - centre + 0.5) / support)),
    );
    const sum = triangle.reduce((a, b) => a + b, 0);
    const factors = triangle.map(value => Math.floor(0.5 + (value / sum) * PRECISION));
    return {start: from, factors};
  });
}

// --- Explanation ---

// Returns how much each cell of a map [cells x depth] spoke for the breed with these weights
// [depth]: 0 to 1 (the most).
export function evidence(map, weightsOfBreed) {
  const depth = weightsOfBreed.length;
  const shares = Array.from({length: map.length / depth}, (_, cell) => {
    let sum = 0;
    for (let i = 0; i < depth; i++) sum += map[cell * depth + i] * weightsOfBreed[i];
    return Math.max(sum, 0);
  });
  const most = Math.max(...shares, 1e-9);
  return shares.map(value => Math.round((value / most) * 1000) / 1000);
}

// Moves the cells of a view to their places in the image. All other places get 0.
export function placeInImage(cells, box, turned) {
  const number = Math.sqrt(cells.length);
  const upright = quarterTurns(cells, 4 - turned / 90, number);
  const [left, top, right, bottom] = box || [0, 0, 1, 1];
  const place = (index, start, end) =>
    Math.floor((((index + 0.5) / number - start) / (end - start)) * number);
  const inside = index => index >= 0 && index < number;
  return Array.from({length: number}, (_, y) =>
    Array.from({length: number}, (_, x) => {
      const row = place(y, top, bottom);
      const column = place(x, left, right);
      return inside(row) && inside(column) ? upright[row * number + column] : 0;
    }),
  );
}
