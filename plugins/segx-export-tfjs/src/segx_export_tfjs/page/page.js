// The page: takes an image or the camera, runs the model, draws what was found and lists it.

import { boxToImage, color, detect, letterbox, mask, place } from "./segment.js";

const LIBRARY = "tfjs/";
const MAX_PIXELS = 4e6; // of the picture drawn; the model sees the whole image whatever its size
const OPACITY = 0.5;
const $ = (id) => document.getElementById(id);
const canvas = $("canvas");
const video = $("video");
const options = new URLSearchParams(location.search);

let tf;
let model;
let names = new Map();
let last = null; // the picture, where it lay in the input, and what the model said of it
let filming = null;
let busy = false;

function say(text, problem = false) {
  $("status").textContent = text;
  $("status").classList.toggle("problem", problem);
}

function script(name) {
  return new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = LIBRARY + name;
    element.onload = resolve;
    element.onerror = () => reject(new Error(`${LIBRARY}${name} cannot be loaded`));
    document.head.append(element);
  });
}

// A graphics card is worth its shaders; without one WebAssembly is far ahead.
async function choose() {
  const wanted = options.get("backend");
  const tries = wanted ? [wanted] : hasGraphicsCard() ? ["webgl", "wasm"] : ["wasm"];
  for (const name of tries) {
    if (await tf.setBackend(name).catch(() => false)) return;
  }
  throw new Error(`this browser starts none of: ${tries.join(", ")}`);
}

function hasGraphicsCard() {
  const context = document.createElement("canvas").getContext("webgl2");
  if (!context) return false;
  const named = context.getExtension("WEBGL_debug_renderer_info");
  const renderer = String(context.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : context.RENDERER));
  return !/swiftshader|llvmpipe|software|basic render/i.test(renderer);
}

async function start() {
  try {
    await script("tf.min.js");
    await script("tf-backend-wasm.min.js");
  } catch {
    const problem = "TensorFlow.js is not in this folder. Run";
    throw Object.assign(new Error(problem), { run: "segx tfjs setup", then: "and export the model again" });
  }
  tf = globalThis.tf;
  tf.enableProdMode();
  tf.wasm.setWasmPaths(new URL(LIBRARY, location.href).href);
  await choose();
  say("Loading the model");
  model = await tf.loadGraphModel("model.json", { onProgress: (part) => say(`Loading the model: ${Math.round(part * 100)} %`) });
  const about = await (await fetch("model.json")).json().then((document) => document.userDefinedMetadata || {});
  names = new Map(about.names || []);
  if (about.variant) {
    $("title").textContent = about.variant;
    document.title = about.variant;
  }
  await run(new Float32Array(model.inputs[0].shape.slice(1).reduce((a, b) => a * b, 1))); // shaders are made now
  say(`Ready: ${names.size} classes, ${tf.getBackend()}`);
  document.body.dataset.ready = tf.getBackend();
}

// Returns the outputs for one image, float32 (height, width, 3).
async function run(image) {
  const [batch, height, width] = model.inputs[0].shape;
  const outputs = tf.tidy(() => {
    const one = tf.tensor4d(image, [1, height, width, 3]);
    return [model.execute(batch > 1 ? tf.tile(one, [batch, 1, 1, 1]) : one)].flat();
  });
  const flat = outputs.find((output) => output.rank === 3);
  const maps = outputs.find((output) => output.rank === 4);
  const [, h, w, coefficients] = maps.shape;
  const [, rows, anchors] = flat.shape;
  const [predictions, prototypes] = await Promise.all([flat.data(), maps.data()]);
  tf.dispose(outputs);
  return {
    predictions: predictions.subarray(0, rows * anchors),
    prototypes: prototypes.subarray(0, h * w * coefficients),
    size: [h, w],
    classes: rows - 4 - coefficients,
    coefficients,
    anchors,
  };
}

// Runs the model on a picture: an ImageBitmap or a video.
async function look(source, width, height) {
  const whole = new OffscreenCanvas(width, height);
  const context = whole.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0);
  const [, inHeight, inWidth] = model.inputs[0].shape;
  const geometry = place([height, width], [inHeight, inWidth]);
  const started = performance.now();
  const outputs = await run(letterbox(context.getImageData(0, 0, width, height).data, geometry));
  const shrink = Math.min(1, Math.sqrt(MAX_PIXELS / (width * height)));
  const drawn = { ...geometry, original: [Math.round(height * shrink), Math.round(width * shrink)] };
  last = { picture: whole, geometry: drawn, outputs, milliseconds: performance.now() - started };
  show();
}

// Draws what was found; one object can be lit, and the list is made anew unless it is the list that asks.
function show(lit = -1, listed = true) {
  if (!last) return;
  const { picture, geometry, outputs, milliseconds } = last;
  const settings = { conf: Number($("conf").value), iou: Number($("iou").value) };
  const found = detect(outputs.predictions, outputs.anchors, outputs.classes, outputs.coefficients, settings);
  for (const one of found) {
    one.rect = boxToImage(one.box, geometry);
    one.mask = mask(outputs.prototypes, outputs.size, one.coefficients, one.rect, geometry);
  }
  last.found = found;
  paint(picture, geometry.original, found, lit);
  if (listed) list(found);
  canvas.hidden = false;
  $("empty").hidden = true;
  $("drop").classList.remove("empty");
  $("save").disabled = false;
  canvas.setAttribute("aria-label", `The image, with ${found.length} objects found`);
  say(`${picture.width} × ${picture.height} pixels, ${Math.round(milliseconds)} ms, ${tf.getBackend()}`);
}

function paint(picture, [height, width], found, lit) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
  const zoom = Math.max(1, width / ($("drop").clientWidth || width), height / (0.76 * innerHeight)); // what a phone takes away
  const line = Math.max(Math.round(1.5 * zoom), 2, Math.round(Math.max(width, height) / 400));
  if ($("masks").checked) {
    const image = context.getImageData(0, 0, width, height);
    for (const [i, one] of [...found.entries()].reverse()) { // the best lies on top
      blend(image, one.mask, color(one.category), lit < 0 ? OPACITY : i === lit ? 0.7 : 0.15);
    }
    context.putImageData(image, 0, 0);
  }
  const size = Math.max(12, Math.round(11.5 * zoom), Math.round(Math.max(width, height) / 55));
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  if (!$("boxes").checked) return;
  const shown = found.filter((_, i) => lit < 0 || i === lit);
  const chips = [];
  for (const one of shown) {
    const text = `${name(one)} ${one.score.toFixed(2)}`;
    const wide = context.measureText(text).width + size * 0.8;
    const chip = spot(chips, one, wide, size * 1.5, line, width, height);
    if (chip) chips.push({ ...chip, one, text });
  }
  for (const one of [...shown].reverse()) { // the best lies on top
    const [x0, y0, x1, y1] = one.rect;
    context.strokeStyle = `rgb(${color(one.category).join(" ")})`;
    context.lineWidth = line;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  for (const { one, text, x, y, wide, high } of chips) {
    const tint = color(one.category);
    context.fillStyle = `rgb(${tint.join(" ")})`;
    context.fillRect(x, y, wide, high);
    context.fillStyle = isLight(tint) ? "#181414" : "#ffffff";
    context.fillText(text, x + size * 0.4, y + high * 0.52);
  }
}

// Finds room for a name at its box: above, then inside its upper and lower edge, then below; else the list alone names it.
function spot(taken, { rect: [x0, y0, , y1] }, wide, high, line, width, height) {
  const x = Math.max(0, Math.min(x0 - line / 2, width - wide));
  const tries = [y0 - high, y0, y1 - high, y1, y0 - 2 * high].map((y) => Math.max(0, Math.min(y, height - high)));
  const free = (y) => taken.every((o) => x >= o.x + o.wide || x + wide <= o.x || y >= o.y + o.high || y + high <= o.y);
  const y = tries.find(free);
  return y === undefined ? null : { x, y, wide, high };
}

function blend(image, { rect: [x0, y0, x1, y1], bits }, tint, opacity) {
  let i = 0;
  for (let y = y0; y < y1; y++) {
    for (let x = x0; x < x1; x++) {
      if (!bits[i++]) continue;
      const o = (y * image.width + x) * 4;
      for (let c = 0; c < 3; c++) image.data[o + c] += (tint[c] - image.data[o + c]) * opacity;
    }
  }
}

function isLight(tint) {
  const [red, green, blue] = tint.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.3;
}

function name(one) {
  return names.get(one.category) ?? `class ${one.category}`;
}

function list(found) {
  $("count").textContent = found.length === 1 ? "1 object" : `${found.length} objects`;
  $("list").replaceChildren(
    ...found.map((one, i) => {
      const item = document.createElement("li");
      const [swatch, word, score] = ["i", "span", "span"].map((kind) => document.createElement(kind));
      swatch.style.background = `rgb(${color(one.category).join(" ")})`;
      swatch.setAttribute("aria-hidden", "true");
      word.textContent = name(one);
      score.textContent = one.score.toFixed(2);
      item.append(swatch, word, score);
      item.onpointerenter = () => {
        item.classList.add("lit");
        if (!filming) show(i, false);
      };
      item.onpointerleave = () => {
        item.classList.remove("lit");
        if (!filming) show(-1, false);
      };
      return item;
    }),
  );
}

async function open(file) {
  if (!file || !model || busy) return;
  stopFilming();
  busy = true;
  try {
    say(`Looking at ${file.name || "the image"}`);
    const bitmap = await createImageBitmap(file).catch(() => {
      throw new Error(`${file.name || "that"} is no image this browser can read`);
    });
    await new Promise((resolve) => setTimeout(resolve, 20)); // the line above is to be seen before the work begins
    await look(bitmap, bitmap.width, bitmap.height);
    bitmap.close();
  } catch (error) {
    say(error.message, true);
  } finally {
    busy = false;
  }
}

async function film() {
  try {
    filming = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    filming = null;
    say(`There is no camera for this page: ${error.message}`, true);
    return;
  }
  $("camera").setAttribute("aria-pressed", "true");
  $("camera").textContent = "Stop the camera";
  video.srcObject = filming;
  await video.play();
  const mine = filming;
  while (filming === mine) {
    await look(video, video.videoWidth, video.videoHeight);
    await new Promise(requestAnimationFrame);
  }
}

function stopFilming() {
  if (!filming) return;
  for (const track of filming.getTracks()) track.stop();
  filming = video.srcObject = null;
  $("camera").setAttribute("aria-pressed", "false");
  $("camera").textContent = "Use the camera";
}

function listen() {
  $("file").onchange = (event) => {
    open(event.target.files[0]);
    event.target.value = ""; // the same file once more is a change too
  };
  $("camera").onclick = () => (filming ? stopFilming() : model && film());
  $("save").onclick = () => {
    const link = document.createElement("a");
    link.download = "segmented.png";
    link.href = canvas.toDataURL("image/png");
    link.click();
  };
  for (const id of ["conf", "iou"]) {
    $(id).oninput = () => {
      $(`${id}-value`).textContent = Number($(id).value).toFixed(2);
      show();
    };
  }
  for (const id of ["masks", "boxes"]) $(id).onchange = () => show();
  const drop = $("drop");
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    open(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => open(event.clipboardData.files[0]));
  drop.classList.add("empty");
}

listen();
start().catch((error) => {
  say(error.message, true);
  if (error.run) {
    const code = document.createElement("code");
    code.textContent = error.run;
    $("status").append(" ", code, ` ${error.then}.`);
  }
  document.body.dataset.failed = error.message;
});

// For tests: what was found in the last picture.
globalThis.segx = { open, found: () => last && last.found };
