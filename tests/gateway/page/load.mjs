// The page's modules as they are served. By text: the folder does not say `"type": "module"`.
import { readFileSync } from "node:fs";

export function load(name) {
  const text = readFileSync(new URL(`../../../src/gateway/page/${name}`, import.meta.url));
  return import(`data:text/javascript;base64,${text.toString("base64")}`);
}
