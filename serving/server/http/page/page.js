// Draws or takes a picture, asks v1/classify while it changes, and shows the answers.

const SENT_SIDE = 280; // a drawing is sent with this many pixels a side
const PEN_WIDTH = 1 / 13; // of the paper: about that of MNIST's digits
const KEY_STEP = 1 / 24; // of the paper
const PAUSE_MS = 40; // between two requests
const SPOKEN_AFTER_MS = 600; // so that a screen reader says the last of many answers
const FEW = 12; // labels that each have a row of their own

const $ = (id) => document.getElementById(id);
const percent = new Intl.NumberFormat(undefined, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const precise = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 2 });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const paper = $("paper");
const pen = paper.getContext("2d");

let token = "";
let model = null; // the stable version, as v1/model describes it
let picture = null; // the file on the paper; null for a drawing
let inked = false; // whether something is drawn
let subject = 0; // counts the pictures: one is drawn in many steps
let wanted = 0; // counts the changes
let answered = 0; // the change that was answered last
let asking = false;
let loads = 0; // counts the models that were asked about
let last = null; // where the pointer that draws was last
let [saying, speaking] = ["", 0];
let columns = [];

// --- calls

class Refused extends Error {
  constructor(status, message, waitS = 0) {
    super(message);
    this.status = status;
    this.waitS = waitS;
  }
}

async function call(path, init = {}) {
  const headers = { ...init.headers, ...(token && { authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch {
    throw new Refused(0, "The server can’t be reached; trying again.");
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const text = (body.error ?? response.statusText).replace("images[0]: ", "");
  throw new Refused(response.status, text, Number(response.headers.get("retry-after")));
}

const query = (more) => new URLSearchParams({ ...(model && { model_name: model.model_name }), ...more });

async function classify(content, label) {
  const options = query({ model_label: label, top_k: FEW, explain: true });
  const type = content.type.startsWith("image/") ? content.type : "image/unknown";
  const answer = await call(`v1/classify?${options}`, { method: "POST", body: content, headers: { "content-type": type } });
  return { ...answer, label, image: answer.images[0] };
}

// Asks about the newest picture, one request after the other, until nothing has changed.
async function ask() {
  if (asking || !model) return;
  asking = true;
  try {
    while (answered !== wanted && (picture || inked)) {
      const [change, about] = [wanted, subject];
      try {
        const content = picture ?? (await drawing());
        const labels = $("compare").checked ? ["stable", "canary"] : ["stable"];
        const answers = await Promise.all(labels.map((label) => classify(content, label)));
        answered = change;
        if (about === subject) show(answers);
      } catch (error) {
        const again = await excused(error);
        if (!again && error.status === 401) break; // until there is a token
        if (!again) answered = change;
        if (!again && about === subject) blank();
      }
      await pause(PAUSE_MS);
    }
  } finally {
    asking = false;
  }
}

// Shows what went wrong; returns whether to try again.
async function excused(error) {
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401) {
    if (token) $("note").textContent = "This token was not accepted.";
    $("login").hidden = false;
    document.body.classList.toggle("locked", !model);
    $("token").focus();
  } else if ([0, 429, 503].includes(error.status)) {
    say(error.status ? "The server is busy; trying again." : error.message);
    await pause(1000 * Math.max(1, error.waitS));
    return true;
  } else say(error.message);
  return false;
}

function changed() {
  wanted += 1;
  ask();
}

// --- the answer

function say(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

function speak(text) {
  saying = text;
  clearTimeout(speaking);
  if (!last) speaking = setTimeout(() => ($("spoken").textContent = text), SPOKEN_AFTER_MS);
}

const sentence = ({ status, candidates: [best] }) =>
  ({
    "no ink": "no ink",
    "several digits": `several digits, as one: ${best.name}, ${percent.format(best.confidence)}`,
    "no digit": `no digit, most like ${best.name}, ${percent.format(best.confidence)}`,
  })[status] ?? `${best.name}, ${percent.format(best.confidence)}`;

function show(answers) {
  say("");
  if (columns.length !== answers.length) makeColumns(answers.length);
  answers.forEach((answer, place) => fill(columns[place], answer, answers.length > 1));
  showSeen(answers[0].image.preparation);
  speak(answers.map(({ label, image }) => (answers.length > 1 ? `${label}: ` : "") + sentence(image)).join("; "));
  if (answers[0].model_version !== model.model_version) load();
}

function makeColumns(count) {
  const made = Array.from({ length: count }, () => $("column").content.firstElementChild.cloneNode(true));
  $("columns").replaceChildren(...made);
  document.body.classList.toggle("many", count > 1);
  columns = made;
}

function fill(column, { model_version, label, image }, withVersion) {
  const part = (name) => column.querySelector(`.${name}`);
  const [best] = image.candidates;
  const noInk = image.status === "no ink";
  part("version").hidden = !withVersion;
  part("version").textContent = `Version ${model_version}, ${label}`;
  part("name").textContent = noInk ? "–" : best.name;
  part("name").classList.toggle("none", noInk);
  part("name").classList.toggle("word", !noInk && best.name.length > 2);
  part("name").classList.toggle("doubtful", Boolean(image.status));
  part("sure").textContent = noInk ? "" : percent.format(best.confidence);
  part("status").textContent = image.status ?? "";
  part("status").hidden = !image.status;
  const rows = [...image.candidates];
  if (model.labels.length <= FEW) rows.sort((one, other) => one.label - other.label);
  bars(part("bars"), rows, noInk ? null : best);
}

function bars(list, rows, best) {
  while (list.children.length > rows.length) list.lastChild.remove();
  while (list.children.length < rows.length) {
    const [row, of, track, share, inner] = ["li", "span", "div", "span", "div"].map((tag) => document.createElement(tag));
    [of.className, track.className, share.className, inner.className] = ["of", "track", "share", "fill"];
    track.append(inner);
    row.append(of, track, share);
    list.append(row);
  }
  rows.forEach((row, place) => {
    const [of, track, share] = list.children[place].children;
    const confidence = best ? row.confidence : 0;
    of.textContent = row.name;
    track.firstChild.style.transform = `scaleX(${confidence})`;
    share.textContent = best ? percent.format(confidence) : "";
    list.children[place].classList.toggle("top", row === best);
  });
}

function showSeen({ pixels, steps }) {
  const { width, height, channels } = model;
  const bytes = Uint8Array.from(atob(pixels), (character) => character.charCodeAt(0));
  $("saw").hidden = bytes.length !== width * height * channels;
  $("steps").textContent = steps.join(", ");
  if ($("saw").hidden) return;
  [$("seen").width, $("seen").height] = [width, height];
  const shown = new ImageData(width, height);
  for (let place = 0; place < width * height; place++)
    for (let channel = 0; channel < 4; channel++)
      shown.data[4 * place + channel] = channel < 3 ? bytes[place * channels + (channels === 3 ? channel : 0)] : 255;
  $("seen").getContext("2d").putImageData(shown, 0, 0);
}

// Shows that there is no answer.
function blank() {
  $("saw").hidden = true;
  speak("");
  $("spoken").textContent = "";
  makeColumns(1);
  const few = model.labels.length <= FEW;
  bars(columns[0].querySelector(".bars"), few ? model.labels.map((name, label) => ({ name, label })) : [], null);
}

// --- the paper

function clear() {
  [picture, inked] = [null, false];
  subject += 1;
  answered = wanted;
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, paper.width, paper.height);
  paper.classList.remove("picture");
  say("");
  if (model) blank();
}

function drawing() {
  const small = document.createElement("canvas");
  small.width = small.height = SENT_SIDE;
  small.getContext("2d").drawImage(paper, 0, 0, SENT_SIDE, SENT_SIDE);
  return new Promise((resolve) => small.toBlob(resolve, "image/png"));
}

function line(from, to) {
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = paper.width * PEN_WIDTH;
  pen.beginPath();
  pen.moveTo(from.x, from.y);
  pen.lineTo(to.x, to.y);
  pen.stroke();
  inked = true;
}

const isDrawable = () => model?.preparation === "mnist";

function place(event) {
  const box = paper.getBoundingClientRect();
  const scale = paper.width / box.width;
  return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
}

paper.addEventListener("pointerdown", (event) => {
  if (!isDrawable() || !event.isPrimary || event.button) return;
  paper.setPointerCapture(event.pointerId);
  $("pen").hidden = true;
  if (picture) clear();
  last = place(event);
  line(last, last);
});
paper.addEventListener("pointermove", (event) => {
  if (!last || !event.isPrimary) return;
  const passed = event.getCoalescedEvents?.() ?? [];
  for (const each of passed.length ? passed : [event]) {
    const next = place(each);
    line(last, next);
    last = next;
  }
  changed();
});
for (const name of ["pointerup", "pointercancel"])
  paper.addEventListener(name, () => {
    if (!last) return;
    last = null;
    changed();
  });

const key = { x: paper.width / 2, y: paper.height / 4, down: false };
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

paper.addEventListener("keydown", (event) => {
  if (!isDrawable() || event.ctrlKey || event.metaKey || event.altKey) return;
  const from = { ...key };
  if (event.key === "Escape") {
    key.down = false;
    clear();
  } else if (event.key === " ") {
    key.down = !key.down;
    speak(key.down ? "pen down" : "pen up");
    if (picture) clear();
    if (key.down) line(key, key);
  } else if (MOVES[event.key]) {
    const within = (value) => Math.min(Math.max(value, 0), paper.width);
    key.x = within(key.x + MOVES[event.key][0] * KEY_STEP * paper.width);
    key.y = within(key.y + MOVES[event.key][1] * KEY_STEP * paper.width);
    if (key.down) line(from, key);
    if (key.down) changed();
  } else return;
  event.preventDefault();
  $("pen").hidden = false;
  $("pen").classList.toggle("down", key.down);
  $("pen").style.left = `${(100 * key.x) / paper.width}%`;
  $("pen").style.top = `${(100 * key.y) / paper.width}%`;
});
paper.addEventListener("blur", () => ($("pen").hidden = true));
$("clear").addEventListener("click", clear);

// --- pictures

async function take(file) {
  if (!file || !model) return;
  clear();
  picture = file;
  if (file.size > model.max_message_bytes) {
    const megabytes = Math.floor(model.max_message_bytes / 1e6);
    say(`The picture is larger than ${megabytes} MB.`);
    return;
  }
  changed();
  const about = subject;
  const bitmap = await createImageBitmap(file).catch(() => null); // the server may know formats that this browser does not
  if (!bitmap || about !== subject) return;
  const scale = Math.min(paper.width / bitmap.width, paper.height / bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  pen.drawImage(bitmap, (paper.width - width) / 2, (paper.height - height) / 2, width, height);
  paper.classList.add("picture");
}

const firstFile = (data) => [...(data?.files ?? [])][0];

$("file").addEventListener("change", () => {
  take($("file").files[0]);
  $("file").value = ""; // so that the same file can be chosen again
});
addEventListener("paste", (event) => take(firstFile(event.clipboardData)));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(firstFile(event.dataTransfer));
});

// --- the model

async function load(name = model?.model_name) {
  const number = (loads += 1);
  try {
    const found = await call("v2/repository/index");
    const names = [...new Set(found.filter(({ state }) => state === "READY").map((each) => each.name))];
    const about = new URLSearchParams({ model_name: name ?? names[0] ?? "", model_label: "stable" });
    const described = await call(`v1/model?${about}`);
    if (number !== loads) return; // another model was chosen in the meantime
    model = described;
    $("login").hidden = true;
    document.body.classList.remove("locked");
    say("");
    describe(names);
    if (!picture && !inked) blank();
    ask();
  } catch (error) {
    if ((await excused(error)) && number === loads) load(name);
  }
}

function describe(names) {
  const { labels } = model;
  const isDigits = labels.join() === "0,1,2,3,4,5,6,7,8,9";
  const listed = labels.slice(0, FEW).join(", ") + (labels.length > FEW ? `, … (${labels.length})` : "");
  $("title").textContent = document.title = !isDrawable() ? "Show a picture" : isDigits ? "Draw a digit" : "Draw";
  $("hint").textContent = !isDrawable()
    ? "Drop, paste or choose one."
    : `Or drop, paste or choose a picture${isDigits ? " of one" : ""}.`;
  $("keys").hidden = !isDrawable();
  paper.setAttribute("role", isDrawable() ? "application" : "img");
  paper.setAttribute("aria-label", isDrawable() ? "Drawing area" : "The picture");
  paper.tabIndex = isDrawable() ? 0 : -1;

  document.body.classList.toggle("words", labels.some((name) => name.length > 2));
  $("which").hidden = names.length < 2;
  $("models").replaceChildren(...names.map((name) => new Option(name, name, false, name === model.model_name)));
  const facts = [
    ["Model", names.length < 2 ? model.model_name : null],
    ["Version", model.model_version],
    ["Test accuracy", model.test_accuracy ? precise.format(model.test_accuracy) : null],
    ["Parity", model.parity_max_difference && `within ${model.parity_max_difference.toExponential(1)}`],
    ["Runs on", model.execution_provider.replace("ExecutionProvider", "")],
    ["Input", `${model.width} × ${model.height}${model.channels === 3 ? ", colour" : ""}`],
    ["Labels", listed],
  ];
  $("facts").replaceChildren(
    ...facts.filter(([, value]) => value != null).map(([term, value]) => {
      const [group, dt, dd] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
      [dt.textContent, dd.textContent] = [term, value];
      group.classList.toggle("wide", term === "Labels");
      group.append(dt, dd);
      return group;
    }),
  );
  const canary = model.versions.find(({ label }) => label === "canary");
  $("offer").hidden = !canary;
  if (canary) $("canary").textContent = `Compare with the canary, version ${canary.version}`;
  else $("compare").checked = false;
  $("about").hidden = false;
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  load();
});
$("models").addEventListener("change", () => {
  clear();
  load($("models").value);
});
$("compare").addEventListener("change", changed);

clear();
load();
