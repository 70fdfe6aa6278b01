// Pulls of models: the server does them in the background, whether a page looks on or not.
import { useEffect, useState } from "./html.js";
import { getJson, postJson } from "./api.js";
import { useEvery, useLoad } from "./parts.js";

const PATH = "v1/models/pulls";
const SHOWN = 5;
const PACE = 700;
export const AT_WORK = ["queued", "in_progress", "cancelling"];

/** The pulls of late: {rows, error, pull, cancel}. `onDone` is called when one has put its model in force. */
export function usePulls(onDone) {
  const list = useLoad(async (signal) => (await getJson(`${PATH}?limit=${SHOWN}`, { signal })).data);
  const [refused, setRefused] = useState(null);
  const rows = list.data ?? [];
  const working = rows.some((each) => AT_WORK.includes(each.status));
  const [worked, setWorked] = useState(false);
  useEvery(working ? PACE : 0, list.reload);
  useEffect(() => {
    if (worked && !working && list.data) onDone();
    if (list.data) setWorked(working);
  }, [working, list.data]);
  const doing = (action) => async (argument) => {
    setRefused(null);
    try {
      await action(argument);
    } catch (error) {
      setRefused(error);
    }
    list.reload();
  };
  return {
    rows,
    refused,
    clear: () => setRefused(null),
    pull: doing((model) => postJson(PATH, { model })),
    cancel: doing((id) => postJson(`${PATH}/${encodeURIComponent(id)}/cancel`)),
  };
}
