// What the reader sees and presses; the work is done by worker.js.
const $ = (id) => document.getElementById(id);
const model = await (await fetch("page.json")).json();
const [channels, ...sides] = model.image_shape; // sides: (slices,) height, width
const [height, width] = sides.slice(-2);
const depth = sides.length > 2 ? sides[0] : 1;
const EACH = "each";
let worker = null;
let made = []; // {label, seed, pixels}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function setUp() {
  $("status").textContent = "";
  document.title = model.title;
  $("title").textContent = model.title;
  $("about").textContent = model.about;
  $("warning").textContent = model.warning;
  $("warning").hidden = !model.warning;
  const kind = model.multi_label ? "checkbox" : "radio";
  const choice = (value, text, checked) =>
    element("label", {}, element("input", { type: kind, name: "label", value, checked }), ` ${text}`);
  if (!model.multi_label) $("labels").append(choice(EACH, "each in turn", true));
  model.labels.forEach((name, label) => $("labels").append(choice(String(label), name, false)));
  $("hint").textContent = model.multi_label
    ? "Several labels can be chosen, or none. The same seed makes the same image, here and in Python."
    : "The same seed makes the same image, here and in Python.";
  $("guidance").value = model.guidance_scale;
  $("guided").hidden = model.null_label === null;
  $("slices").hidden = depth === 1;
  $("slice").max = depth - 1;
  $("slice").value = Math.floor(depth / 2);
  $("figures").hidden = !model.figures.length;
  $("figures").querySelector("ul").append(...model.figures.map((line) => element("li", { textContent: line })));
  $("footer").textContent = model.footer;
}

// The labels of each image that is asked for.
function conditions(count) {
  const chosen = [...document.querySelectorAll("input[name=label]:checked")].map((input) => input.value);
  if (model.multi_label) return new Array(count).fill(chosen.map(Number));
  if (chosen[0] === EACH) return Array.from({ length: count }, (_, i) => [i % model.labels.length]);
  return new Array(count).fill([Number(chosen[0])]);
}

const named = (asked) => asked.map((label) => model.labels[label]).join(" + ") || "no label";

function draw(image, slice = Number($("slice").value)) {
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  const shown = context.createImageData(width, height);
  const plane = depth * height * width;
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) shown.data[4 * i + c] = image.pixels[(channels === 3 ? c : 0) * plane + slice * height * width + i];
    shown.data[4 * i + 3] = 255;
  }
  context.putImageData(shown, 0, 0);
  return canvas;
}

async function save(canvas, name) {
  const blob = await new Promise((done) => canvas.toBlob(done));
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// An image, or the slices of a volume side by side, as one picture.
function whole(image) {
  if (depth === 1) return draw(image);
  const columns = Math.ceil(Math.sqrt(depth));
  return sheet(Array.from({ length: depth }, (_, slice) => draw(image, slice)), columns);
}

function sheet(pictures, columns) {
  const [{ width: w, height: h }] = pictures;
  const canvas = element("canvas", { width: columns * w, height: Math.ceil(pictures.length / columns) * h });
  const context = canvas.getContext("2d");
  pictures.forEach((picture, i) => context.drawImage(picture, (i % columns) * w, Math.floor(i / columns) * h));
  return canvas;
}

function show(index) {
  const image = made[index];
  const text = `${image.label}, seed ${image.seed}`;
  const picture = draw(image);
  picture.dataset.index = index;
  const button = element("button", { type: "button", title: "Save as PNG", ariaLabel: `Save ${text} as PNG` }, picture, text);
  button.onclick = () => save(whole(image), `${model.name}-${image.label.replaceAll(/[^\w+-]+/g, "_")}-${image.seed}.png`);
  $("images").append(button);
}

function pythonCode(asked, seeds, guidance) {
  const labels = model.multi_label ? asked.map((one) => one.map((label) => model.labels[label])) : asked.map(([label]) => label);
  return `import torch
import medmnist_diffusion as md

pipe = md.load_pipeline(${JSON.stringify(model.load)})
seeds = ${JSON.stringify(seeds)}
images = pipe(
    class_labels=${JSON.stringify(labels)},
    generator=[torch.Generator().manual_seed(seed) for seed in seeds],
${model.distilled ? "" : `    timesteps=pipe.fast_timesteps(${model.timesteps.length}),
    guidance_scale=${guidance},
`}).images`;
}

function working(is) {
  $("make").ariaDisabled = String(is); // not disabled, which would take the keyboard away from it
  $("stop").hidden = $("progress").hidden = !is;
}

function stop(message) {
  worker?.terminate();
  worker = null;
  working(false);
  $("status").textContent = message;
}

function make(event) {
  event.preventDefault();
  if ($("make").ariaDisabled === "true") return;
  const count = Number($("count").value);
  const first = Number($("seed").value);
  const guidance = Number($("guidance").value);
  const asked = conditions(count);
  const seeds = asked.map((_, i) => (first + i) % 2 ** 32);
  made = [];
  $("images").replaceChildren();
  $("save").hidden = true;
  $("progress").value = 0;
  $("status").textContent = worker ? "Working …" : "Loading the network …";
  working(true);
  worker ??= new Worker("worker.js", { type: "module" });
  const began = performance.now();
  worker.onerror = () => stop("The work could not begin: this browser could not start it.");
  worker.onmessage = ({ data }) => {
    if (data.error) return stop(`That did not work: ${data.error}`);
    if (data.progress !== undefined) {
      $("progress").value = data.progress;
      $("status").textContent = "Working …";
    } else if (data.pixels) {
      made[data.index] = { label: named(asked[data.index]), seed: seeds[data.index], pixels: data.pixels };
      show(data.index);
    } else {
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      working(false);
      $("status").textContent = `${count} ${depth > 1 ? "volumes" : "images"} in ${seconds} s. Press one to save it.`;
      $("save").hidden = false;
      $("again").hidden = false;
      $("again").querySelector("pre").textContent = pythonCode(asked, seeds, guidance);
    }
  };
  worker.postMessage({ conditions: asked, seeds, guidance });
}

setUp();
$("form").onsubmit = make;
$("stop").onclick = () => stop("Stopped.");
$("save").onclick = () => save(sheet(made.map(whole), Math.ceil(Math.sqrt(made.length))), `${model.name}.png`);
$("slice").oninput = () => {
  $("slice_number").value = $("slice").value;
  for (const canvas of document.querySelectorAll("#images canvas")) {
    const again = draw(made[canvas.dataset.index]);
    again.dataset.index = canvas.dataset.index;
    canvas.replaceWith(again);
  }
};
document.body.dataset.ready = "yes"; // for tests
