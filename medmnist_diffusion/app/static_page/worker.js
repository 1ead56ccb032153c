// Makes the images beside the page, so that the page answers while it works.
import * as ort from "./runtime/ort.wasm.min.mjs";
import { generate } from "./sampler.js";

ort.env.wasm.numThreads = 1; // more need headers that a static server does not send
ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
const AT_ONCE = 4; // images through the network together

const ready = (async () => {
  const model = await (await fetch("page.json")).json();
  const session = await ort.InferenceSession.create("network.onnx", { executionProviders: ["wasm"] });
  return { model, session };
})();

onmessage = async ({ data: { conditions, seeds, guidance } }) => {
  try {
    const { model, session } = await ready;
    const steps = model.timesteps.length * Math.ceil(seeds.length / AT_ONCE);
    for (let start = 0; start < seeds.length; start += AT_ONCE) {
      const some = seeds.slice(start, start + AT_ONCE);
      const done = (model.timesteps.length * start) / AT_ONCE;
      const tell = (step) => postMessage({ progress: (done + step) / steps });
      const pixels = await generate(ort, session, model, conditions.slice(start, start + AT_ONCE), some, guidance, tell);
      const size = pixels.length / some.length;
      some.forEach((seed, i) => postMessage({ index: start + i, pixels: pixels.slice(i * size, (i + 1) * size) }));
    }
    postMessage({ finished: true });
  } catch (error) {
    postMessage({ error: String(error.message ?? error) });
  }
};
