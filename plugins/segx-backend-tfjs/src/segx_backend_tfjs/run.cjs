// Runs a TensorFlow.js graph model for segx: images come on standard input, outputs go to standard output.
//
//   node run.cjs NODE_MODULES MODEL_FOLDER
//
// A message is its header's length (uint32, little endian), the header as JSON, and numbers (float32). The first
// message is ours: {"ready": true}. Then for each {"shape": [n, h, w, 3]} and its numbers follows
// {"outputs": [{"name", "shape"}]} and theirs one after another, or {"error": "..."}. It ends when its input ends.
"use strict";

const fs = require("fs");
const path = require("path");

console.log = console.info = console.warn = console.debug = console.error; // standard output is for messages

const [modules, folder] = process.argv.slice(2);

function writeAll(bytes) {
  for (let done = 0; done < bytes.length; ) {
    try {
      done += fs.writeSync(1, bytes, done);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error; // the reader is slower than we are
    }
  }
}

function say(header, parts = []) {
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  for (const bytes of [length, text, ...parts]) writeAll(bytes);
}

// Returns so many bytes in memory of their own, or null where the input has ended.
function take(count) {
  const bytes = Buffer.from(new ArrayBuffer(count));
  for (let done = 0; done < count; ) {
    let got;
    try {
      got = fs.readSync(0, bytes, done, count - done);
    } catch (error) {
      if (error.code === "EAGAIN") continue;
      if (error.code === "EOF") return null; // Windows
      throw error;
    }
    if (got === 0) return null;
    done += got;
  }
  return bytes;
}

// TensorFlow.js loads over HTTP; from a folder it takes being told how.
async function artifacts() {
  const document = JSON.parse(fs.readFileSync(path.join(folder, "model.json"), "utf8"));
  const groups = document.weightsManifest;
  const data = Buffer.concat(groups.flatMap((g) => g.paths).map((name) => fs.readFileSync(path.join(folder, name))));
  return {
    modelTopology: document.modelTopology,
    signature: document.signature,
    format: document.format,
    weightSpecs: groups.flatMap((group) => group.weights),
    weightData: data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength),
  };
}

async function main() {
  const tf = require(path.join(modules, "@tensorflow/tfjs"));
  const wasm = require(path.join(modules, "@tensorflow/tfjs-backend-wasm"));
  tf.enableProdMode();
  wasm.setWasmPaths(path.join(modules, "@tensorflow/tfjs-backend-wasm", "dist") + path.sep);
  if (!(await tf.setBackend("wasm"))) throw new Error("WebAssembly does not start in this Node.js");
  await tf.ready();
  const content = await artifacts();
  const model = await tf.loadGraphModel({ load: async () => content });
  const input = model.inputs[0].name;
  const wanted = content.signature && content.signature.outputs;
  const names = wanted ? Object.keys(wanted) : model.outputs.map((output) => output.name);
  const nodes = wanted ? names.map((name) => wanted[name].name) : names;
  say({ ready: true, outputs: names });

  for (;;) {
    const size = take(4);
    if (size === null) return;
    const header = take(size.readUInt32LE());
    if (header === null) return;
    const { shape } = JSON.parse(header);
    const numbers = take(4 * shape.reduce((a, b) => a * b, 1));
    if (numbers === null) return;
    try {
      const images = tf.tensor4d(new Float32Array(numbers.buffer), shape);
      const made = tf.tidy(() => [model.execute({ [input]: images }, nodes)].flat());
      const outputs = made.map((tensor, i) => ({ name: names[i], shape: tensor.shape }));
      const parts = made.map((tensor) => Buffer.from(new Float32Array(tensor.dataSync()).buffer));
      tf.dispose([images, made]);
      say({ outputs }, parts);
    } catch (error) {
      say({ error: String((error && error.message) || error) });
    }
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    say({ error: String((error && error.message) || error) });
    process.exit(1);
  },
);
