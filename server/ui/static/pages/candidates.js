// The candidates of a plan with the numbers that the router weighed, and what each would have cost.
import { html } from "../core/html.js";
import { dollars, seconds } from "../core/format.js";
import { Table, Tag } from "../core/parts.js";

/** `candidates` are those of a trace or of POST /v1/route, whose names for times and costs differ. */
export function Candidates({ candidates, chosen }) {
  const rows = candidates.map((each) => ({
    ...each,
    cost: each.cost !== undefined ? each.cost : each.cost_dollars,
    latency: each.latency !== undefined ? each.latency : each.latency_seconds,
  }));
  const paid = rows.find((each) => each.model === chosen)?.cost;
  const reasons = rows.some((each) => each.reason && each.model !== chosen); // the choice's own is told beside it
  const columns = [["Model"], ["Score", "figure"], ["Quality", "figure"], ["Answers in", "figure"], ["Costs", "figure"], ["Instead", "figure"]];
  return html`<${Table} label="Candidates" columns=${reasons ? [...columns, ["Reason"]] : columns}>
    ${rows.map((each) => html`<tr class=${each.model === chosen ? "chosen" : ""}>
      <td class="name">${each.model} ${each.model === chosen && html`<${Tag} kind="good">chosen<//>`} ${each.fits === false && html`<${Tag} kind="warn">too small<//>`}</td>
      <td class="figure">${each.score.toFixed(3)}</td>
      <td class="figure">${Math.round(each.quality * 100)} %</td>
      <td class="figure">${seconds(each.latency)}</td>
      <td class="figure">${dollars(each.cost)}</td>
      <td class="figure">${each.model === chosen ? "" : instead(each.cost, paid)}</td>
      ${reasons && html`<td class="reason">${each.reason}</td>`}
    </tr>`)}
  <//>`;
}

/** The models that were left out, together with the others of the same reason. */
export function LeftOut({ excluded }) {
  const byReason = new Map();
  for (const { model, reason } of excluded) byReason.set(reason, [...(byReason.get(reason) ?? []), model]);
  return html`<${Table} label="Models left out" columns=${[["Why"], ["Models"]]}>
    ${[...byReason].map(([reason, models]) => html`<tr><td class="name">${reason}</td><td class="reason">${models.join(", ")}</td></tr>`)}
  <//>`;
}

/** What another choice would have cost beside the one that was made. */
export function instead(cost, paid) {
  if (cost == null || paid == null) return "unknown";
  if (cost === paid) return "the same";
  const [sign, change] = cost > paid ? ["+", cost - paid] : ["−", paid - cost];
  const times = paid > 0 && cost > paid ? ` (${(cost / paid).toFixed(cost / paid < 10 ? 1 : 0)} times)` : "";
  return `${sign}${dollars(change)}${times}`;
}
