// Calls the server with @grpc/grpc-js: node node_client.js ADDRESS CHECKOUT DIGITS.json.
//
// Exits with 0 if all answers are right. NODE_PATH has the packages, the checkout the interface (.proto files).

const assert = require("node:assert");
const fs = require("node:fs");
const { promisify } = require("node:util");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, checkout, data] = process.argv.slice(2);
// Each image is base64 of its pixels.
const { images, labels } = JSON.parse(fs.readFileSync(data, "utf8"));
const pixels = images.map((image) => Buffer.from(image, "base64"));

function connect(file, service) {
  const definition = loader.loadSync(file, { includeDirs: [checkout], keepCase: true, longs: Number });
  const found = service.split(".").reduce((scope, name) => scope[name], grpc.loadPackageDefinition(definition));
  const client = new found(address, grpc.credentials.createInsecure());
  const call = (method) => promisify(client[method].bind(client));
  return { client, call };
}

const raw = (chosen) => ({ raw_images: { pixels: Buffer.concat(chosen), count: chosen.length } });

async function codeOf(promise) {
  try {
    await promise;
    return grpc.status.OK;
  } catch (error) {
    return error.code;
  }
}

// Sends each request on one stream; returns the answers in order.
async function stream(client, requests) {
  const answers = [];
  const call = client.ClassifyStream();
  for (const request of requests) call.write({ request });
  call.end();
  for await (const answer of call) answers.push(answer);
  return answers;
}

async function main() {
  const digits = connect("protos/digits/v1/digits.proto", "digits.v1.DigitClassifierService");
  const classify = digits.call("Classify");

  const together = await classify(raw(pixels));
  assert.deepStrictEqual(together.labels, labels);
  assert.strictEqual(together.model_name, "mnist_convnet");
  const beside = await Promise.all(pixels.map((image) => classify(raw([image]))));
  assert.deepStrictEqual(beside.map((answer) => answer.labels[0]), labels);
  const detailed = await classify({ ...raw(pixels), include_probabilities: true, top_k: 3 });
  assert.strictEqual(detailed.probabilities.length, 10 * labels.length);

  const streamed = await stream(digits.client, pixels.map((image) => raw([image])));
  assert.deepStrictEqual(streamed.map((answer) => answer.response.labels[0]), labels);

  const { INVALID_ARGUMENT, NOT_FOUND, DEADLINE_EXCEEDED } = grpc.status;
  assert.strictEqual(await codeOf(classify({ raw_images: { pixels: Buffer.alloc(5), count: 1 } })), INVALID_ARGUMENT);
  assert.strictEqual(await codeOf(classify({ ...raw(pixels), model_name: "resnet" })), NOT_FOUND);
  const past = promisify((done) => digits.client.Classify(raw(pixels), { deadline: Date.now() - 1 }, done));
  assert.strictEqual(await codeOf(past()), DEADLINE_EXCEEDED);
  const compressed = new grpc.Metadata();
  compressed.set("grpc-internal-encoding-request", "gzip");
  const zipped = promisify((done) => digits.client.Classify(raw(pixels), compressed, done));
  assert.deepStrictEqual((await zipped()).labels, labels);
  assert.strictEqual((await digits.call("GetModel")({})).width, 28);

  const open = connect("protos/inference/inference.proto", "inference.GRPCInferenceService");
  assert.strictEqual((await open.call("ServerReady")({})).ready, true);
  const inputs = [{ name: "images", datatype: "UINT8", shape: [pixels.length, 28, 28, 1] }];
  const inferred = await open.call("ModelInfer")({
    model_name: "mnist_convnet",
    inputs,
    raw_input_contents: [Buffer.concat(pixels)],
  });
  const place = inferred.outputs.findIndex((output) => output.name === "probabilities");
  const probabilities = new Float32Array(Uint8Array.from(inferred.raw_output_contents[place]).buffer);
  const best = pixels.map((_, row) => {
    const part = probabilities.subarray(10 * row, 10 * (row + 1));
    return part.indexOf(Math.max(...part));
  });
  assert.deepStrictEqual(best, labels);

  digits.client.close();
  open.client.close();
  console.log("Node is content");
}

main();
