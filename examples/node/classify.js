// Classifies image files: node examples/node/classify.js [ADDRESS]
//
// Needs @grpc/grpc-js and @grpc/proto-loader: npm install --prefix examples/node

const fs = require("node:fs");
const { promisify } = require("node:util");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

// gRPC repeats a call that found no server, or one that was stopping.
const retries = {
  methodConfig: [
    {
      name: [{ service: "digits.v1.DigitClassifierService" }],
      retryPolicy: {
        maxAttempts: 5,
        initialBackoff: "0.1s",
        maxBackoff: "2s",
        backoffMultiplier: 3,
        retryableStatusCodes: ["UNAVAILABLE", "CANCELLED"],
      },
    },
  ],
};

const address = process.argv[2] ?? "127.0.0.1:50051";
const folder = "serving/samples";
const paths = fs.readdirSync(folder).filter((name) => name.endsWith(".png")).sort().map((name) => `${folder}/${name}`);

const definition = loader.loadSync("protos/digits/v1/digits.proto", { keepCase: true, longs: Number });
const { DigitClassifierService } = grpc.loadPackageDefinition(definition).digits.v1;
const options = { "grpc.service_config": JSON.stringify(retries) };
const client = new DigitClassifierService(address, grpc.credentials.createInsecure(), options);

async function main() {
  const deadline = () => ({ deadline: Date.now() + 10_000 });
  const getModel = promisify(client.GetModel.bind(client));
  const classify = promisify(client.Classify.bind(client));

  const model = await getModel({}, deadline());
  const images = paths.map((path) => fs.readFileSync(path));
  const answer = await classify({ encoded_images: { images } }, deadline());
  paths.forEach((path, index) => {
    const name = model.labels[answer.labels[index]];
    console.log(`${path}  ${name}  ${(100 * answer.confidences[index]).toFixed(2)}%`);
  });
}

main()
  .catch((error) => {
    console.error(`${address}: ${grpc.status[error.code] ?? error.name}: ${error.details ?? error.message}`);
    process.exitCode = 1;
  })
  .finally(() => client.close());
