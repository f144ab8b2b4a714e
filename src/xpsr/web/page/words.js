// Numbers in words. Spaces that hold a number and its unit together are no-break spaces.
const GAP = " ";

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** A number with few digits: 0.25, 3.5, 42. */
export function short(value) {
  const digits = Math.abs(value) < 1 ? 2 : Math.abs(value) < 10 ? 1 : 0;
  return String(Number(value.toFixed(digits)));
}

export function bytesText(bytes) {
  if (bytes < 1000) return `${bytes}${GAP}bytes`;
  if (bytes < 1e6) return `${short(bytes / 1000)}${GAP}kB`;
  return bytes < 1e9 ? `${short(bytes / 1e6)}${GAP}MB` : `${short(bytes / 1e9)}${GAP}GB`;
}

export const sizeText = (width, height) => `${width}${GAP}×${GAP}${height}`;

export const megapixelsText = (pixels) => `${short(pixels / 1e6)}${GAP}megapixels`;

export function durationText(seconds) {
  if (seconds < 10) return `${short(Math.max(seconds, 0.1))}${GAP}s`;
  if (seconds < 90) return `${Math.round(seconds)}${GAP}s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes}${GAP}min`;
  return `${Math.floor(minutes / 60)}${GAP}h${minutes % 60 ? ` ${minutes % 60}${GAP}min` : ""}`;
}

export const clockText = (date) => date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

export const percentText = (part) => `${Math.round(100 * part)}${GAP}%`;

export const count = (number, one, many = `${one}s`) => `${number}${GAP}${number === 1 ? one : many}`;

/** "a.txt, b.txt and 3 more". */
export function namesText(names, most = 3) {
  const more = names.length - most;
  return more > 0 ? `${names.slice(0, most).join(", ")} and ${more}${GAP}more` : names.join(", ");
}
