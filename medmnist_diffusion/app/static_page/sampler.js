// Images from noise, as the pipeline of medmnist-diffusion makes them: the same seed, the same image. No page, no network access.

// torch.Generator().manual_seed(seed) on a CPU: the Mersenne Twister MT19937 (Matsumoto & Nishimura 1998).
export class RandomStream {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.state[0] = seed >>> 0;
    for (let i = 1; i < 624; i++) {
      const last = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, last) + i;
    }
    this.next = 624;
  }

  bits() {
    const state = this.state;
    if (this.next === 624) {
      for (let i = 0; i < 624; i++) {
        const mixed = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (mixed >>> 1) ^ (mixed & 1 ? 0x9908b0df : 0);
      }
      this.next = 0;
    }
    let y = state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  // 0 … 1, without 1: torch takes 24 bits for a float.
  uniform() {
    return (this.bits() & 0xffffff) / 0x1000000;
  }

  // torch.randn(count), count ≥ 16: Box & Muller 1958, on blocks of sixteen.
  normal(count) {
    const values = Float32Array.from({ length: count }, () => this.uniform());
    const block = (start) => {
      for (let j = start; j < start + 8; j++) {
        const radius = Math.sqrt(-2 * Math.log(1 - values[j]));
        const angle = 2 * Math.PI * values[j + 8];
        values[j] = radius * Math.cos(angle);
        values[j + 8] = radius * Math.sin(angle);
      }
    };
    for (let start = 0; start + 16 <= count; start += 16) block(start);
    if (count % 16) {
      for (let j = count - 16; j < count; j++) values[j] = this.uniform();
      block(count - 16);
    }
    return values;
  }
}

// What the network takes of one image's labels; `asked` holds label numbers, or is "unknown".
export function networkLabels(model, asked) {
  if (!model.multi_label) return [asked === "unknown" ? model.null_label : asked[0]];
  const there = new Array(model.labels.length + 1).fill(0);
  for (const label of asked === "unknown" ? [model.null_label] : asked) there[label] = 1;
  return there;
}

function labelTensor(ort, model, conditions) {
  const rows = conditions.map((asked) => networkLabels(model, asked));
  const flat = rows.flat();
  if (model.multi_label) return new ort.Tensor("float32", Float32Array.from(flat), [rows.length, rows[0].length]);
  return new ort.Tensor("int64", BigInt64Array.from(flat, BigInt), [rows.length]);
}

// The network's prediction for some images at one noise level; with guidance (Ho & Salimans 2022) from two.
async function predict(ort, session, model, latents, timestep, conditions, guidance) {
  const guided = guidance > 1 && model.null_label !== null;
  const size = latents.length;
  const input = new Float32Array(guided ? 2 * size : size);
  input.set(latents);
  if (guided) input.set(latents, size);
  const asked = guided ? [...conditions.map(() => "unknown"), ...conditions] : conditions;
  const { prediction } = await session.run({
    sample: new ort.Tensor("float32", input, [asked.length, ...model.encoded_shape]),
    timestep: new ort.Tensor("int64", new BigInt64Array(asked.length).fill(BigInt(timestep)), [asked.length]),
    class_labels: labelTensor(ort, model, asked),
  });
  const values = prediction.data;
  if (!guided) return values;
  return Float32Array.from({ length: size }, (_, i) => values[i] + guidance * (values[size + i] - values[i]));
}

// Pixels 0 … 255 of images as the network sees them: channels move back to their neighbours (Shi et al. 2016), padding goes.
export function decode(model, latents, count) {
  const [encodedChannels, rows, columns] = model.encoded_shape;
  const factor = model.pixel_unshuffle;
  const [height, width] = model.image_shape.slice(-2);
  const [above, left] = model.padding.map((side) => Math.floor(side / 2));
  const planes = encodedChannels / factor ** 2;
  const pixels = new Uint8Array(count * planes * height * width);
  let to = 0;
  for (let plane = 0; plane < count * planes; plane++) {
    for (let y = above; y < above + height; y++) {
      for (let x = left; x < left + width; x++) {
        const channel = plane * factor ** 2 + (y % factor) * factor + (x % factor);
        const value = latents[(channel * rows + Math.floor(y / factor)) * columns + Math.floor(x / factor)] / 2 + 0.5;
        if (!Number.isFinite(value)) throw new Error("The network made no image here. Another browser may.");
        if (model.white_from !== null) pixels[to++] = value > model.white_from ? 255 : 0;
        else pixels[to++] = Math.round(Math.min(1, Math.max(0, value)) * 255);
      }
    }
  }
  return pixels;
}

// Images of the conditions asked for, one a seed. Every step is a weighted sum of the noise and of the predictions so far.
export async function generate(ort, session, model, conditions, seeds, guidance, afterStep = () => {}) {
  const each = model.encoded_shape.reduce((a, b) => a * b);
  const noise = new Float32Array(each * seeds.length);
  seeds.forEach((seed, i) => noise.set(new RandomStream(seed).normal(each), i * each));
  const parts = [noise];
  let latents = noise;
  for (let step = 0; step < model.timesteps.length; step++) {
    parts.push(await predict(ort, session, model, latents, model.timesteps[step], conditions, guidance));
    const weights = model.weights[step];
    latents = new Float32Array(noise.length);
    parts.forEach((part, k) => {
      for (let i = 0; i < latents.length; i++) latents[i] += weights[k] * part[i];
    });
    afterStep(step + 1);
  }
  return decode(model, latents, seeds.length);
}
