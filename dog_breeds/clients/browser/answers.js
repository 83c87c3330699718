// Chooses the answer about an image, by the same steps as pixels.py, answers.py and explanation.py
// in dog_breeds/serving. Those files explain the steps, and tests/test_site.py compares both on the
// same inputs. "Pixels" are RGB bytes: size x size x 3, row by row.

const BORDER_TOLERANCE = 16; // of 255: largest difference between a border's pixels and its colour
const BORDER_SHARE = 0.75; // least share of border pixels in a row or column of the border
const SMALLEST_INSIDE = 1 / 6; // of a side; if the inside is smaller, the whole image is border
const LARGEST_INSIDE = 0.8; // of the area; if the inside is larger, the image has no border
const STRIP = 256; // rows that resize() reads at once
export const LARGEST_STRIP = 8 * STRIP; // rows that reduced() reads at once, at its largest scale
const PRECISION = 2 ** 22; // Pillow stores a weight as a whole number of 1/2^22

// Returns the answer about pixels, {prediction, known, ...}, as lambda_function.py does for
// "explain": true. `run` runs the model: an async function from pixels to {probabilities, score,
// upright, map}. `rules` come from the model file. `kernel` has the weights of the head
// (Float32Array, breeds x depth), or is null if the file cannot explain its answers.
export async function answer(run, pixels, rules, kernel) {
  const best = await bestPrediction(run, pixels, rules);
  const result = answerFor(best, rules);
  if (kernel) {
    const depth = kernel.length / rules.classes.length;
    const breed = best.probabilities.indexOf(Math.max(...best.probabilities));
    const cells = evidence(best.map, kernel.subarray(breed * depth, (breed + 1) * depth));
    result.explanation = placeInImage(cells, best.box, best.turned);
    result.explanation_share = rules.share;
  }
  return result;
}

// Runs the model on the image and, if need be, on its inside without borders and on turned images.
// Returns the attempt with the highest score if its breed is known, otherwise the first attempt.
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
  // A turned image counts only if the model sees it upright
  const candidates = attempts.filter(({turned, upright}) => !turned || upright >= 0);
  const best = candidates.reduce((a, b) => (b.score > a.score ? b : a));
  return best.known ? best : attempts[0];
}

// Returns the answer that an attempt gives, without an explanation.
export function answerFor(best, rules) {
  const ranking = rules.classes
    .map((breed, index) => [breed, best.probabilities[index]])
    .sort((a, b) => b[1] - a[1]);
  const result = {
    prediction: Object.fromEntries(
      ranking.map(([breed, probability]) => [breed, Math.round(probability * 1e6) / 1e6]),
    ),
    known: best.known,
  };
  if (best.known && rules.candidates) {
    const isCandidate = ([, probability], rank) =>
      rank === 0 || probability >= rules.candidates.threshold;
    result.candidates = ranking.filter(isCandidate).map(([breed]) => breed);
  }
  if (best.box) result.cropped = true;
  if (best.turned) result.turned = best.turned;
  return result;
}

// --- Views of an image ---

// Returns the box inside plain borders, [left, top, right, bottom] as shares of the sides. Returns
// null if there are no such borders.
export function insideBorders(pixels, size) {
  const edge = [];
  for (let i = 0; i < size; i++) edge.push(i, (size - 1) * size + i, i * size, i * size + size - 1);
  const bins = new Map(); // coarse colour, 4 bits a channel -> indices of its edge pixels
  for (const pixel of edge) {
    const channels = pixels.subarray(3 * pixel, 3 * pixel + 3);
    // A Uint8Array rounds down
    const [red, green, blue] = channels.map(value => value / BORDER_TOLERANCE);
    const bin = 256 * red + 16 * green + blue;
    if (!bins.has(bin)) bins.set(bin, []);
    bins.get(bin).push(pixel);
  }
  const [[, largest]] = [...bins].sort((a, b) => b[1].length - a[1].length || a[0] - b[0]);
  const colour = [0, 1, 2].map(i => median(largest.map(pixel => pixels[3 * pixel + i])));
  const isBorder = pixel =>
    colour.every((value, i) => Math.abs(pixels[3 * pixel + i] - value) <= BORDER_TOLERANCE);
  const border = Array.from({length: size * size}, (_, pixel) => isBorder(pixel));
  const isInside = flags => flags.filter(Boolean).length / flags.length < BORDER_SHARE;
  const rows = Array.from({length: size}, (_, y) => border.slice(y * size, (y + 1) * size));
  const [top, bottom] = longestRun(rows.map(isInside));
  if (!bottom) return null;
  const [left, right] = longestRun(
    rows[0].map((_, x) => isInside(rows.slice(top, bottom).map(row => row[x]))),
  );
  const [width, height] = [right - left, bottom - top];
  if (Math.min(height, width) < SMALLEST_INSIDE * size) return null;
  if (height * width > LARGEST_INSIDE * size ** 2) return null;
  return [left / size, top / size, right / size, bottom / size];
}

function median(values) {
  const sorted = values.sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return (sorted[Math.ceil(middle) - 1] + sorted[Math.floor(middle)]) / 2;
}

// Returns the start and the end of the longest run of true values: the first if several are equally
// long, and [0, 0] if there is none.
export function longestRun(flags) {
  let longest = [0, 0];
  let start = 0;
  flags.forEach((flag, i) => {
    if (!flag) start = i + 1;
    else if (i + 1 - start > longest[1] - longest[0]) longest = [start, i + 1];
  });
  return longest;
}

// Returns the pixels inside a box, scaled to size x size.
export function cutOut(pixels, box, size) {
  const [left, top, right, bottom] = box.map(share => Math.round(share * size));
  const row = y => [...pixels.subarray(3 * (y * size + left), 3 * (y * size + right))];
  const strip = (start, end) =>
    Array.from({length: end - start}, (_, y) => row(top + start + y)).flat();
  return resize({strip, width: right - left, height: bottom - top, channels: 3}, size);
}

// Turns a square of cells clockwise by quarter turns. Each cell has `values` numbers.
export function quarterTurns(cells, turns, side, values = 1) {
  if (turns % 4 === 0) return cells;
  const turned = cells.map((_, index) => {
    const cell = Math.floor(index / values);
    const [y, x] = [Math.floor(cell / side), cell % side];
    // Each new row is an old column, from the bottom to the top
    return cells[values * ((side - 1 - x) * side + y) + (index % values)];
  });
  return quarterTurns(turned, turns - 1, side, values);
}

// --- An image as the model sees it ---

// Returns the divisor, 1, 2, 4 or 8, by which Pillow reduces a JPEG of this size while decoding it.
export function jpegScale(width, height, size, share) {
  const side = Math.ceil(size / share);
  const largest = Math.max(1, Math.min(width, height) / side);
  return [8, 4, 2, 1].find(scale => scale <= largest);
}

// Reduces an image: each new pixel is the mean of a block of scale x scale pixels. The image and
// the result have the form {strip, width, height, channels}; see resize() for `strip`.
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

// Returns the central `share` of both sides of an image, resized to size x size like Pillow
// (bilinear, with antialiasing). `strip(start, end)` returns the rows from `start` to before `end`,
// with `channels` bytes per pixel. A large photo is therefore never in memory as a whole.
export function resize({strip, width, height, channels}, size, share = 1) {
  const columns = weights(width, size, share);
  const rows = weights(height, size, share);
  const first = rows[0].start;
  const last = Math.max(...rows.map(({start, factors}) => start + factors.length));
  // All rows that the result needs, already at its width
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

// Writes the weighted sum of pixels to `to`. The pixels are `step` bytes apart in `from`.
function weigh(from, place, step, factors, to, target) {
  for (let channel = 0; channel < 3; channel++) {
    let sum = PRECISION / 2; // half, because writing to a Uint8Array rounds down
    for (let i = 0; i < factors.length; i++) sum += from[place + i * step + channel] * factors[i];
    to[target + channel] = Math.min(255, sum / PRECISION);
  }
}

// Returns, for each of `size` new pixels, the old pixels that it is made of: [{start, factors}].
// Math.fround rounds to 32-bit floats, in which Pillow stores the box.
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
    // The weights fall linearly with the distance from the centre
    const triangle = Array.from({length: to - from}, (_, x) =>
      Math.max(0, 1 - Math.abs((x + from - centre + 0.5) / support)),
    );
    const sum = triangle.reduce((a, b) => a + b, 0);
    const factors = triangle.map(value => Math.floor(0.5 + (value / sum) * PRECISION));
    return {start: from, factors};
  });
}

// --- Explanation ---

// Returns how much each cell of a map [cells x depth] supports the breed with these weights
// [depth], from 0 to 1 for the strongest cell.
export function evidence(map, weightsOfBreed) {
  const depth = weightsOfBreed.length;
  const support = Array.from({length: map.length / depth}, (_, cell) => {
    let sum = 0;
    for (let i = 0; i < depth; i++) sum += map[cell * depth + i] * weightsOfBreed[i];
    return Math.max(sum, 0);
  });
  const strongest = Math.max(...support, 1e-9); // not 0, by which it is divided
  return support.map(value => Math.round((value / strongest) * 1000) / 1000);
}

// Moves the cells of a cropped or turned view to their places in the image, as rows. Places outside
// the view get 0.
export function placeInImage(cells, box, turned) {
  const side = Math.sqrt(cells.length);
  const turnedBack = quarterTurns(cells, 4 - turned / 90, side);
  const [left, top, right, bottom] = box || [0, 0, 1, 1];
  const place = (index, start, end) =>
    Math.floor((((index + 0.5) / side - start) / (end - start)) * side);
  const isInside = index => index >= 0 && index < side;
  return Array.from({length: side}, (_, y) =>
    Array.from({length: side}, (_, x) => {
      const row = place(y, top, bottom);
      const column = place(x, left, right);
      return isInside(row) && isInside(column) ? turnedBack[row * side + column] : 0;
    }),
  );
}
