// From an image to objects with masks, in plain numbers: no page and no TensorFlow.js in here.
//
// It does what segx does, step for step: the same letterbox, the same suppression, masks whose logits are interpolated
// bilinearly between the centres of prototypes.

const GREY = 114 / 255;
const MAX_CANDIDATES = 30000;
const ANY_SIZE = 1e9; // what no number of an object reaches

// Rounds halves to the even number, as Python does.
function rounded(value) {
  const low = Math.floor(value);
  const rest = value - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

// Says where an image lies in the input: scaled to the largest size that fits, centred.
export function place([height, width], [inHeight, inWidth]) {
  const ratios = [inHeight / height, inWidth / width].sort((a, b) => b - a);
  let h, w;
  for (const ratio of ratios) {
    h = Math.max(rounded(height * ratio), 1);
    w = Math.max(rounded(width * ratio), 1);
    if (h <= inHeight && w <= inWidth) break;
  }
  const top = rounded((inHeight - h) / 2 - 0.1);
  const left = rounded((inWidth - w) / 2 - 0.1);
  return { original: [height, width], input: [inHeight, inWidth], left, top, width: w, height: h };
}

function steps(from, to) {
  const before = new Int32Array(to);
  const after = new Int32Array(to);
  const weight = new Float32Array(to);
  for (let i = 0; i < to; i++) {
    const at = Math.min(Math.max(((i + 0.5) * from) / to - 0.5, 0), from - 1);
    before[i] = Math.floor(at);
    after[i] = Math.min(before[i] + 1, from - 1);
    weight[i] = at - before[i];
  }
  return { before, after, weight };
}

// Returns float32 (height, width, 3), 0..1, of RGBA bytes: resized bilinearly into its place, grey around it.
export function letterbox(rgba, geometry) {
  const [inHeight, inWidth] = geometry.input;
  const [height, width] = geometry.original;
  const out = new Float32Array(inHeight * inWidth * 3).fill(GREY);
  const down = steps(height, geometry.height);
  const across = steps(width, geometry.width);
  for (let y = 0; y < geometry.height; y++) {
    const upper = down.before[y] * width;
    const lower = down.after[y] * width;
    const v = down.weight[y];
    let o = ((y + geometry.top) * inWidth + geometry.left) * 3;
    for (let x = 0; x < geometry.width; x++) {
      const l = across.before[x];
      const r = across.after[x];
      const u = across.weight[x];
      for (let c = 0; c < 3; c++) {
        const a = rgba[(upper + l) * 4 + c] * (1 - u) + rgba[(upper + r) * 4 + c] * u;
        const b = rgba[(lower + l) * 4 + c] * (1 - u) + rgba[(lower + r) * 4 + c] * u;
        out[o++] = Math.round(a * (1 - v) + b * v) / 255;
      }
    }
  }
  return out;
}

// Returns objects, best first: box x1 y1 x2 y2 in pixels of the input, score, class number, mask coefficients.
//
// predictions: float32 (4 + classes + coefficients, anchors): centre x, centre y, width, height, scores, coefficients.
export function detect(predictions, anchors, classes, coefficients, { conf = 0.25, iou = 0.7, most = 300 } = {}) {
  const found = [];
  for (let a = 0; a < anchors; a++) {
    let best = -Infinity;
    let number = 0;
    for (let c = 0; c < classes; c++) {
      const score = predictions[(4 + c) * anchors + a];
      if (score > best) {
        best = score;
        number = c;
      }
    }
    if (!(best > conf)) continue;
    let sound = true;
    for (let row = 0; row < 4 + classes + coefficients && sound; row++) {
      sound = Math.abs(predictions[row * anchors + a]) < ANY_SIZE; // an object that is not finite is none
    }
    if (sound) found.push({ score: best, category: number, anchor: a });
  }
  found.sort((a, b) => b.score - a.score);
  const kept = [];
  for (const one of found.slice(0, MAX_CANDIDATES)) {
    const at = (row) => predictions[row * anchors + one.anchor];
    const [x, y, w, h] = [at(0), at(1), at(2) / 2, at(3) / 2].map(Math.fround);
    one.box = [x - w, y - h, x + w, y + h].map(Math.fround);
    if (kept.some((other) => other.category === one.category && overlap(other.box, one.box) > iou)) continue;
    one.coefficients = Float32Array.from({ length: coefficients }, (_, i) => at(4 + classes + i));
    kept.push(one);
    if (kept.length === most) break;
  }
  return kept;
}

function overlap(a, b) {
  const w = Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0);
  const h = Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0);
  const shared = w * h;
  const union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared;
  return union > 0 ? shared / union : 0;
}

// Returns a box of the input in pixels of the image, clipped to it.
export function boxToImage(box, geometry) {
  const [height, width] = geometry.original;
  const gain = [width / geometry.width, height / geometry.height];
  const limit = [width, height];
  return box.map((value, i) => {
    const moved = (value - [geometry.left, geometry.top][i % 2]) * gain[i % 2];
    return Math.min(Math.max(moved, 0), limit[i % 2]);
  });
}

// Maps pixels of the image to prototypes along one axis; both are counted by their centres.
function axis(pixels, extent, padding, side, prototypes) {
  const density = prototypes / side;
  const gain = extent / pixels;
  const start = (padding + 0.5 * gain) * density - 0.5;
  return (pixel) => {
    const at = Math.min(Math.max(pixel * gain * density + start, 0), prototypes - 1);
    const before = Math.min(Math.floor(at), Math.max(prototypes - 2, 0));
    return [before, Math.min(before + 1, prototypes - 1), at - before];
  };
}

// Returns the mask of an object within its box: { rect: [x0, y0, x1, y1], bits: Uint8Array of 0 and 1, row by row }.
//
// prototypes: float32 (h, w, coefficients); box: in pixels of the image.
export function mask(prototypes, [h, w], coefficients, box, geometry) {
  const [height, width] = geometry.original;
  const limit = [width, height, width, height];
  const rect = box.map((value, i) => Math.min(Math.max(Math.ceil(value), 0), limit[i]));
  rect[2] = Math.max(rect[2], rect[0]);
  rect[3] = Math.max(rect[3], rect[1]);
  const [x0, y0, x1, y1] = rect;
  const bits = new Uint8Array((x1 - x0) * (y1 - y0));
  if (!bits.length) return { rect, bits };
  const across = axis(width, geometry.width, geometry.left, geometry.input[1], w);
  const down = axis(height, geometry.height, geometry.top, geometry.input[0], h);
  const columns = Array.from({ length: x1 - x0 }, (_, i) => across(x0 + i));
  const first = columns[0][0];
  const last = columns[columns.length - 1][1];
  const count = coefficients.length;
  const rows = new Map(); // logits of a row of prototypes, as far as this object needs it
  const logits = (row) => {
    let line = rows.get(row);
    if (line) return line;
    line = new Float32Array(last - first + 1);
    for (let column = first; column <= last; column++) {
      let sum = 0;
      const from = (row * w + column) * count;
      for (let c = 0; c < count; c++) sum += prototypes[from + c] * coefficients[c];
      line[column - first] = sum;
    }
    rows.set(row, line);
    return line;
  };
  let o = 0;
  for (let y = y0; y < y1; y++) {
    const [upper, lower, v] = down(y);
    const a = logits(upper);
    const b = logits(lower);
    for (const [left, right, u] of columns) {
      const above = a[left - first] * (1 - u) + a[right - first] * u;
      const below = b[left - first] * (1 - u) + b[right - first] * u;
      bits[o++] = above * (1 - v) + below * v > 0 ? 1 : 0;
    }
  }
  return { rect, bits };
}

// Returns the colour [red, green, blue] of a class: hues by the golden angle, in OKLCH, where equal steps look equal.
export function color(number) {
  const hue = (((25 + number * 137.50776) % 360) * Math.PI) / 180;
  const lightness = [0.7, 0.8, 0.63, 0.75, 0.58][number % 5];
  for (let chroma = 0.21; ; chroma *= 0.97) {
    const linear = toLinear(lightness, chroma * Math.cos(hue), chroma * Math.sin(hue));
    if (Math.min(...linear) >= 0 && Math.max(...linear) <= 1) {
      return linear.map((c) => Math.round(255 * (c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055)));
    }
  }
}

function toLinear(lightness, a, b) {
  const long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const short = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
    -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
    -0.0041960863 * long - 0.7034186147 * medium + 1.707614701 * short,
  ];
}
