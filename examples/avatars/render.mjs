// Renders avatars with attributes drawn at random from attributes.json:
//
//     node render.mjs COUNT OUT
//
// OUT.bin holds the pixels, uint8 [COUNT,128,128,3]; OUT.json the attributes, an object an image.
// The same COUNT gives the same images.

import { createAvatar } from "@dicebear/core";
import * as avataaars from "@dicebear/avataaars";
import { Resvg } from "@resvg/resvg-js";
import fs from "node:fs";

const SIZE = 128;
const definition = JSON.parse(fs.readFileSync(new URL("attributes.json", import.meta.url)));
const [count, out] = [Number(process.argv[2]), process.argv[3]];

let state = 1;
function random() {  // in [0, 1): the generator mulberry32
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), state | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

function drawAttributes() {
  const drawn = {};
  for (const [name, attribute] of Object.entries(definition.attributes)) {
    const values = attribute.values.flat().filter((value) => value !== null);
    const isNull = random() < (attribute.share_of_null ?? 0);
    drawn[name] = isNull ? null : values[Math.floor(random() * values.length)];
  }
  return drawn;
}

function toSvg(attributes) {
  const options = { scale: 115, translateY: 4, topProbability: 100, backgroundType: ["solid"] };
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) options[name] = [value];
    if ("share_of_null" in definition.attributes[name])
      options[`${name}Probability`] = value === null ? 0 : 100;
  }
  options.facialHairColor = options.hairColor;
  return createAvatar(avataaars, options).toString();
}

// Rendered at twice the size and averaged over 2x2 pixels, so that edges are smooth.
function toPixels(svg) {
  const width = 2 * SIZE;
  const rgba = new Resvg(svg, { fitTo: { mode: "width", value: width } }).render().pixels;
  const rgb = Buffer.alloc(SIZE * SIZE * 3);
  for (let y = 0; y < SIZE; y++)
    for (let x = 0; x < SIZE; x++)
      for (let c = 0; c < 3; c++) {
        const i = (2 * y * width + 2 * x) * 4 + c;
        const sum = rgba[i] + rgba[i + 4] + rgba[i + 4 * width] + rgba[i + 4 * width + 4];
        rgb[(y * SIZE + x) * 3 + c] = (sum + 2) >> 2;
      }
  return rgb;
}

const attributes = Array.from({ length: count }, drawAttributes);
const file = fs.openSync(`${out}.bin`, "w");
for (const drawn of attributes) fs.writeSync(file, toPixels(toSvg(drawn)));
fs.writeFileSync(`${out}.json`, JSON.stringify(attributes));
