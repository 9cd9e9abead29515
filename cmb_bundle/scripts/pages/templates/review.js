"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const $ = id => document.getElementById(id);
const cards = content.cards, about = Object.fromEntries(content.subjects.map(one => [one.subject, one]));
const words = { accept: "cmb", reject: "no cmb", unsure: "unsure" }, classes = { "1": "accept", "0": "reject", none: "accept" };
for (const [decision, word] of Object.entries(words)) classes[word] = decision;
const kept = `cmb-review ${content.key}`, half = (content.slices - 1) / 2, edge = 192;
const columns = ["subject", "lesion", "slice", "x", "y", "class", "diameter_mm", "comment", "reader", "program", "probability",
  "ras_r_mm", "ras_a_mm", "ras_s_mm", "region", "side"];
let state = { reader: "", decisions: {} }, shown = [], current = 0, marks = true;
cards.forEach((card, index) => { card.id = `${card.subject}\n${card.lesion}`; card.index = index; card.slice = half; });

// ------------------------------------------------------------------------------------------------ what is kept
function keep() {
  try { localStorage.setItem(kept, JSON.stringify(state)); } catch (error) {
    $("unkept").hidden = false;
    $("unkept").textContent = `This browser keeps nothing (${error.name}): save the CSV before you close the page.`;
  }
}
function recall() {
  try { state = Object.assign(state, JSON.parse(localStorage.getItem(kept) || "{}")); } catch (error) { /* said when keeping */ }
}
const entry = card => state.decisions[card.id] || {};
function change(card, part) {
  state.decisions[card.id] = { ...entry(card), ...part };
  keep();
  paint(card);
  tally();
}

// ------------------------------------------------------------------------------------------------ one card
function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
function fill(card) {
  if (card.filled) return;
  card.filled = true;
  const left = element("div"), right = element("div"), subject = about[card.subject];
  if (card.found === null && card.lesion === 0) {
    left.append(element("p", "No finding, and no candidate from the lowest probability on. Look at the whole scan: accept says that it has no microbleed."));
  } else {
    card.canvas = element("canvas", undefined, { width: 0, height: 0 });
    card.canvas.style.cssText = `width:${3 * edge}px;height:${card.channels.length * edge}px`;
    card.names = element("div", undefined, { class: "names" });
    card.slider = element("input", undefined, { type: "range", min: 0, max: content.slices - 1, step: 1, "aria-label": "slice" });
    card.slider.value = card.slice;
    card.slider.oninput = () => { card.slice = Number(card.slider.value); draw(card); };
    left.append(card.names, card.canvas, card.slider);
  }
  const list = element("dl");
  const row = (name, value, program) => {
    if (value === null || value === undefined || value === "") return;
    const [key, cell] = [element("dt", name), element("dd", value)];
    if (program) { key.className = "program"; cell.className = "program"; }
    list.append(key, cell);
  };
  row("subject", card.subject);
  if (card.place) {
    row("slice, x, y", card.place.map(number => Math.round(number)).join(", "));
    row("RAS in mm", card.ras_mm.map(number => number.toFixed(1)).join(", "));
    row("diameter", card.diameter_mm === null ? "" : `${card.diameter_mm} mm`, true);
    row("region", card.region ? `${card.region}, ${card.side}` : "");
    row("probability", card.probability, true);
    row("program", card.found ? `finding ${card.found}` : card.reason, true);
  }
  row("read", subject.contrast);
  right.append(list);
  if (subject.warnings) right.append(element("p", subject.warnings, { class: "warn" }));
  card.buttons = {};
  const choice = element("div", undefined, { class: "choice" });
  for (const decision of Object.keys(words)) {
    const button = element("button", decision);
    button.onclick = () => { go(shown.indexOf(card)); decide(decision, false); };
    card.buttons[decision] = button;
    choice.append(button);
  }
  card.comment = element("input", undefined, { type: "text", placeholder: "comment", maxlength: 400, "aria-label": "comment" });
  card.comment.oninput = () => change(card, { comment: card.comment.value });
  right.append(choice, card.comment);
  card.article.append(left, right);
  paint(card);
}
function paint(card) {
  const { decision, comment } = entry(card);
  card.article.className = [decision || "", shown[current] === card ? "current" : ""].join(" ").trim();
  if (!card.filled) return;
  for (const [name, button] of Object.entries(card.buttons)) button.setAttribute("aria-pressed", name === decision);
  if (document.activeElement !== card.comment) card.comment.value = comment || "";
}
async function show(card) {
  fill(card);
  card.seen = true;
  if (!card.canvas || card.image) return;
  const image = card.image = new Image();
  image.src = `data:image/jpeg;base64,${card.strip}`;
  try { await image.decode(); } catch (error) { return; }
  if (card.seen) draw(card);
}
function hide(card) {
  card.seen = false;
  if (card.canvas) card.canvas.width = card.canvas.height = 0;  // gives its memory back
  card.image = null;
}
function draw(card) {
  if (!card.image || !card.image.complete || !card.seen) return;
  const n = content.pixels, pen = card.canvas.getContext("2d");
  card.canvas.width = 3 * edge;
  card.canvas.height = card.channels.length * edge;
  pen.imageSmoothingQuality = "high";
  for (let column = 0; column < 3; column++) {
    const slice = card.slice + column - 1;
    for (let channel = 0; channel < card.channels.length; channel++) {
      if (slice >= 0 && slice < content.slices) pen.drawImage(card.image, slice * n, channel * n, n, n, column * edge, channel * edge, edge - 2, edge - 2);
      if (!marks) continue;
      pen.fillStyle = slice === half ? "#ffb000" : "#8a6a20";
      pen.fillRect(column * edge + edge / 2 - 2, channel * edge, 2, edge * 0.12);
      pen.fillRect(column * edge, channel * edge + edge / 2 - 2, edge * 0.12, 2);
    }
  }
  pen.font = "13px system-ui, sans-serif";
  pen.fillStyle = "#ffb000";
  card.channels.forEach((name, channel) => pen.fillText(name === "phase" ? "phase: dark as a microbleed, bright as calcium" : name, 6, (channel + 1) * edge - 10));
  pen.fillText("R", 4, 14);
  const offset = card.slice - half, said = value => (value === 0 ? "its slice" : `${value > 0 ? "+" : ""}${value}`);
  card.names.replaceChildren(...["below", "", "above"].map((name, column) => element("span", `${said(offset + column - 1)} ${name}`)));
  card.slider.value = card.slice;
}
function turn(step) {
  const card = shown[current];
  if (!card) return;
  card.slice = Math.max(0, Math.min(content.slices - 1, card.slice + step));
  draw(card);
}

// ------------------------------------------------------------------------------------------------ all cards
const orders = {
  subject: (a, b) => a.index - b.index,
  uncertain: (a, b) => doubt(a) - doubt(b) || a.index - b.index,
  probability: (a, b) => (b.probability ?? -1) - (a.probability ?? -1) || a.index - b.index,
};
function doubt(card) {  // in log odds from the threshold, so that 0.02 and 0.1 are as far apart as 0.98 and 0.9
  if (card.probability === null || card.probability === undefined) return card.lesion === 0 ? Infinity : 0;
  const odds = p => { const q = Math.min(Math.max(p, 1e-4), 1 - 1e-4); return Math.log(q / (1 - q)); };
  return Math.abs(odds(card.probability) - odds(about[card.subject].threshold));
}
const filters = {
  all: () => true, undecided: card => !entry(card).decision, accept: card => entry(card).decision === "accept",
  reject: card => entry(card).decision === "reject", unsure: card => entry(card).decision === "unsure",
  comment: card => entry(card).comment, found: card => card.found,
};
const near = new IntersectionObserver(seen => seen.forEach(one => (one.isIntersecting ? show : hide)(one.target.card)), { rootMargin: "900px" });
function list(first) {
  const text = $("text").value.toLowerCase();
  near.disconnect();
  shown = cards.filter(card => filters[$("which").value](card) && card.subject.toLowerCase().includes(text)).sort(orders[$("order").value]);
  for (const card of shown) {
    if (!card.article) {
      card.article = element("article", undefined, { tabindex: -1 });
      card.article.card = card;
      card.article.onclick = () => go(shown.indexOf(card), false);
    }
  }
  $("cards").replaceChildren(...shown.map(card => card.article));
  current = Math.max(0, first === undefined ? 0 : shown.indexOf(first));
  shown.forEach(card => { paint(card); near.observe(card.article); });
  if (current) shown[current].article.scrollIntoView({ block: "center" }); else scrollTo(0, 0);
  tally();
}
function go(index, scroll = true) {
  if (!shown.length) return;
  const before = shown[current];
  current = Math.max(0, Math.min(shown.length - 1, index));
  if (before) paint(before);
  const card = shown[current];
  show(card);
  paint(card);
  if (scroll) card.article.scrollIntoView({ block: "nearest" });
}
function decide(decision, on = true) {
  const card = shown[current];
  if (!card) return;
  change(card, { decision });
  if (on) go(current + 1);
}
function undecided() {
  const rest = [...shown.keys()].map(step => (current + 1 + step) % shown.length).find(index => !entry(shown[index]).decision);
  if (rest === undefined) say("All that are shown are decided."); else go(rest);
}
function tally() {
  const number = Object.fromEntries(Object.keys(words).map(decision => [decision, cards.filter(card => entry(card).decision === decision).length]));
  const done = number.accept + number.reject + number.unsure;
  $("done").max = Math.max(1, cards.length);
  $("done").value = done;
  $("count").textContent = `${done} of ${cards.length} decided: ${number.accept} accepted, ${number.reject} rejected, ${number.unsure} unsure. ${shown.length} shown.`;
}
function say(text) { $("said").textContent = text; }

// ------------------------------------------------------------------------------------------------ the table
function cell(value) {
  const text = value === null || value === undefined ? "" : String(value).replace(/[\r\n]+/g, " ");
  return /[",;\t]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text;
}
function table() {
  const rows = cards.map(card => {
    const { decision, comment } = entry(card), none = card.lesion === 0;
    const [slice, x, y] = card.place || ["", "", ""], [r, a, s] = card.ras_mm || ["", "", ""];
    let word = decision ? words[decision] : "undecided";
    if (none) word = decision === "accept" ? "none" : "undecided";
    return [card.subject, card.lesion, slice, x, y, word, card.diameter_mm, comment, state.reader, card.found ? "found" : "not found",
      card.probability, r, a, s, card.region, card.side].map(cell).join(",");
  });
  return `\ufeff${columns.join(",")}\r\n${rows.join("\r\n")}\r\n`;
}
function save() {
  const link = element("a", undefined, { download: `review${state.reader ? `_${state.reader.replace(/[^\w-]+/g, "_")}` : ""}.csv` });
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  const open = cards.filter(card => !entry(card).decision).length;
  say(open ? `Saved; ${open} are undecided, so that their subjects are no labels yet.` : "Saved.");
}
function parse(text) {
  const rows = [[""]];
  let quoted = false;
  for (let at = text.charCodeAt(0) === 0xfeff ? 1 : 0; at < text.length; at++) {
    const mark = text[at], row = rows[rows.length - 1];
    if (quoted) {
      if (mark !== '"') row[row.length - 1] += mark;
      else if (text[at + 1] === '"') { row[row.length - 1] += mark; at++; } else quoted = false;
    } else if (mark === '"') quoted = true;
    else if (mark === ",") row.push("");
    else if (mark === "\n") rows.push([""]);
    else if (mark !== "\r") row[row.length - 1] += mark;
  }
  return rows.filter(row => row.some(Boolean));
}
function read(text) {
  const [head, ...rows] = parse(text), at = Object.fromEntries((head || []).map((name, index) => [name, index]));
  const lacking = ["subject", "lesion", "slice", "x", "y", "class"].filter(name => !(name in at));
  if (lacking.length) throw new Error(`it has no column ${lacking.join(", ")}; expected a CSV of this page`);
  const known = Object.fromEntries(cards.map(card => [card.id, card]));
  const found = { taken: 0, undecided: 0, other: 0 };
  for (const row of rows) {
    const card = known[`${row[at.subject]}\n${Number(row[at.lesion])}`], decision = classes[row[at.class]];
    const place = card && (card.place || ["", "", ""]);
    const same = card && ["slice", "x", "y"].every((name, index) => (place[index] === "" ? row[at[name]] === "" : Math.abs(Number(row[at[name]]) - place[index]) < 0.011));
    if (!same) { found.other++; continue; }
    if (!decision) found.undecided++; else found.taken++;
    state.decisions[card.id] = { decision, comment: at.comment === undefined ? "" : row[at.comment] || "" };
    if (at.reader !== undefined && row[at.reader]) state.reader = row[at.reader];
  }
  return found;
}
async function readFiles(files) {
  const told = [];
  for (const file of files) {
    try {
      const { taken, undecided: open, other } = read(await file.text());
      told.push(`${file.name}: ${taken} decisions read${open ? `, ${open} undecided` : ""}${other ? `; ${other} rows are of other results and were left out` : ""}.`);
    } catch (error) { told.push(`${file.name} was not read: ${error.message}.`); }
  }
  keep();
  $("reader").value = state.reader;
  list(shown[current]);
  say(told.join(" "));
}

// ------------------------------------------------------------------------------------------------ keys and controls
const keys = {
  j: () => go(current + 1), ArrowDown: () => go(current + 1), k: () => go(current - 1), ArrowUp: () => go(current - 1),
  ArrowLeft: () => turn(-1), ArrowRight: () => turn(1), a: () => decide("accept"), r: () => decide("reject"), u: () => decide("unsure"),
  x: () => decide(undefined, false), n: undecided, s: save, m: () => { marks = !marks; shown.filter(card => card.seen).forEach(draw); },
  c: () => { const card = shown[current]; if (card) { fill(card); card.comment.focus(); } }, "?": () => $("keys").showModal(),
};
addEventListener("keydown", event => {
  const field = event.target;
  const writing = field.matches("input[type=text], input[type=search], #reader, select");
  if (writing && (event.key === "Escape" || event.key === "Enter")) field.blur();
  if (writing || $("keys").open || event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
$("order").onchange = $("which").onchange = event => { event.target.blur(); list(); };
$("text").oninput = () => list();
$("blind").onchange = event => { document.body.classList.toggle("blind", event.target.checked); event.target.blur(); };
$("reader").oninput = event => { state.reader = event.target.value; keep(); };
$("save").onclick = save;
$("help").onclick = keys["?"];
$("file").onchange = async event => { await readFiles(event.target.files); event.target.value = ""; event.target.blur(); };
$("rest").onclick = () => {
  const open = shown.filter(card => !entry(card).decision && card.lesion !== 0);
  if (open.length && !confirm(`Reject ${open.length} cards that are shown and undecided?`)) return;
  open.forEach(card => { state.decisions[card.id] = { ...entry(card), decision: "reject" }; paint(card); });
  keep();
  tally();
};
recall();
$("reader").value = state.reader;
list();
