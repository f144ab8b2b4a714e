// Files to pixels. Decoded pictures take four bytes a pixel, so few are kept and the others are closed.
import { make } from "./base.js";
import { Problem } from "./problems.js";

const MOST_PIXELS = 2 ** 27; // of all that are kept, but for the last few
const ALWAYS_KEPT = 4; // what a viewer shows at once, and one more
const OVERLAY_SIDE = 2048;
const HUE = [255, 64, 160]; // of what was invented: a colour that photographs hardly have

/** Upright and in sRGB. */
export async function decoded(blob) {
  try {
    return await createImageBitmap(blob);
  } catch {
    throw new Problem({ code: "undecodable", detail: "It can still be restored and downloaded" });
  }
}

/** Decoded pictures by a key of any kind; those used last stay, and those on the screen. */
export class Bitmaps {
  constructor() { Object.assign(this, { kept: new Map(), dropped: new Set(), shown: [] }); }

  /** Resolves to what `open` resolves to, a bitmap; opens it once. */
  async get(key, open) {
    const entry = this.kept.get(key) ?? { found: open(), pixels: 0 };
    this.kept.delete(key);
    this.kept.set(key, entry);
    try {
      const bitmap = await entry.found;
      entry.pixels = bitmap.width * bitmap.height;
      this.tidy();
      return bitmap;
    } catch (error) {
      this.kept.delete(key);
      throw error;
    }
  }

  /** Takes down what is on the screen: it is not closed before something else is there. */
  show(bitmaps) {
    this.shown = bitmaps;
    this.sweep();
  }

  drop(key) {
    this.kept.get(key)?.found.then((bitmap) => { this.dropped.add(bitmap); this.sweep(); }, () => {});
    this.kept.delete(key);
  }

  tidy() {
    let sum = 0;
    for (const [at, [key, { pixels }]] of [...this.kept].reverse().entries()) {
      sum += pixels;
      if (pixels && sum > MOST_PIXELS && at >= ALWAYS_KEPT) this.drop(key); // without pixels it is being decoded
    }
  }

  sweep() {
    for (const bitmap of this.dropped) {
      if (this.shown.includes(bitmap)) continue;
      bitmap.close();
      this.dropped.delete(bitmap);
    }
  }
}

let last = Promise.resolve();

/** Resolves to {canvas, width, height}: a small square of a picture's middle, and the picture's size. One after another. */
export function thumbnail(blob, side) {
  const made = last.then(async () => {
    const bitmap = await decoded(blob);
    const { width, height } = bitmap;
    const canvas = squareOf(bitmap, side);
    bitmap.close();
    return { canvas, width, height };
  });
  last = made.catch(() => {});
  return made;
}

function squareOf(source, side) {
  const { width, height } = source;
  const part = Math.min(width, height);
  const canvas = make("canvas", { width: side, height: side });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, (width - part) / 2, (height - part) / 2, part, part, 0, 0, side, side);
  return canvas;
}

/** A map of what was invented, white where much was, as a colour that is the more opaque the more was. */
export function overlayOf(map) {
  const factor = Math.min(OVERLAY_SIDE / Math.max(map.width, map.height), 1);
  const [width, height] = [map.width, map.height].map((side) => Math.max(Math.round(side * factor), 1));
  const canvas = make("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(map, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  const { data } = pixels;
  for (let at = 0; at < data.length; at += 4) {
    data[at + 3] = data[at];
    [data[at], data[at + 1], data[at + 2]] = HUE;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** A PNG of what is shown: 8 bits, sRGB, without metadata. */
export function pngOf(bitmap) {
  const canvas = make("canvas", { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob)
    : reject(new Problem({ code: "undecodable", detail: "It is too large for that", remedy: "choose PNG as the file format and restore it again" }))), "image/png"));
}
