// Elements as tagged templates: htm's templates make preact's elements.
import { h } from "../vendor/preact-core.js";
import htm from "../vendor/htm.js";

export const html = htm.bind(h);
export { render } from "../vendor/preact-core.js";
export {
  useCallback, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState,
} from "../vendor/preact-hooks.js";
