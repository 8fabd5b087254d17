// Times TensorFlow.js alone: a run of a graph model for each line on standard input, its milliseconds on standard output.
//
//   node tfjs_bare.cjs NODE_MODULES MODEL_FOLDER HEIGHT WIDTH
"use strict";

const fs = require("fs");
const path = require("path");
const readline = require("readline");

const [modules, folder, height, width] = process.argv.slice(2);
const tf = require(path.join(modules, "@tensorflow/tfjs"));
const wasm = require(path.join(modules, "@tensorflow/tfjs-backend-wasm"));

async function main() {
  tf.enableProdMode();
  wasm.setWasmPaths(path.join(modules, "@tensorflow/tfjs-backend-wasm", "dist") + path.sep);
  await tf.setBackend("wasm");
  const document = JSON.parse(fs.readFileSync(path.join(folder, "model.json"), "utf8"));
  const [{ paths, weights }] = document.weightsManifest;
  const data = Buffer.concat(paths.map((name) => fs.readFileSync(path.join(folder, name))));
  const weightData = data.buffer.slice(data.byteOffset, data.byteOffset + data.length);
  const content = { modelTopology: document.modelTopology, weightSpecs: weights, weightData };
  const model = await tf.loadGraphModel({ load: async () => content });
  const shape = [1, Number(height), Number(width), 3];
  const images = new Float32Array(shape.reduce((a, b) => a * b)).map(() => Math.random());
  const outputs = Object.values(document.signature.outputs).map((output) => output.name);
  for await (const _ of readline.createInterface({ input: process.stdin })) {
    const start = performance.now();
    const given = tf.tensor4d(images, shape);
    const made = [model.execute(given, outputs)].flat();
    made.map((tensor) => tensor.dataSync());
    tf.dispose([given, made]);
    console.log(performance.now() - start);
  }
}

main();
