"use strict";
const $ = (id) => document.getElementById(id);
const state = { picture: null, image: null, shown: null, pictures: [], models: [], token: "" };

class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

const base = location.pathname.replace(/\/$/, ""); // behind a proxy there may be a prefix

async function call(path, options = {}) {
  const headers = state.token ? { Authorization: "Bearer " + state.token } : {};
  const answer = await fetch(base + path, { ...options, headers }).catch(() => null);
  if (!answer) throw new Refused(0, "The server cannot be reached.");
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, body.error || "HTTP " + answer.status);
}

function say(error) {
  const locked = error && error.status === 401;
  $("locked").hidden = !locked;
  $("error").hidden = !error || (locked && !state.token);
  $("error").textContent = error ? error.message : "";
}

function make(name, text, attributes = {}) {
  const element = document.createElement(name);
  element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

async function start() {
  try {
    const found = await (await call("/v1")).json();
    state.models = found.models.filter((model) => model.accepts.image || model.accepts.text);
    state.pictures = found.pictures;
    say(null);
    showModels(found.models);
    if (state.models.length) await showGallery();
  } catch (error) { say(error); }
}

function showModels(all) {
  const select = $("model");
  select.replaceChildren(...state.models.map((model, index) => make("option", title(model), { value: index })));
  fit();
  $("ask").hidden = !state.models.length;
  $("answer").hidden = !state.models.length;
  $("nothing").hidden = state.models.length > 0;
  $("nothing-text").textContent = all.length
    ? "The models here were trained on features of an outside region detector, so they take no pictures."
    : "No model on this server answers questions.";
}

function title(model) {
  const pruned = model.sparsity ? ", " + Math.round(100 * model.sparsity) + " % pruned" : "";
  return model.name + " v" + model.version + " (" + model.task + ")" + pruned;
}

const image = () => (state.image ? { image: state.image } : { picture: state.picture });
const alone = "Each score is a probability of its own: they need not add up.";
const cosines = "Each score is the cosine of two embeddings, in per cent: from -100 to 100.";
const shared = "The scores are probabilities that share 100 % among all.";

// What each task is asked, and how: any other task is a question about the picture.
const tasks = {
  question: { word: "Question", body: (text) => ({ question: text, ...image() }), scores: alone },
  snli_ve: { word: "Statement", body: (text) => ({ question: text, ...image() }), scores: alone },
  nlvr2: {
    word: "Statement", scores: shared,
    body: (text) => ({ statement: text, left: image(), right: { picture: $("right").value } }),
  },
  vcr: {
    word: "Question", scores: shared,
    body: (text) => ({ question: text, choices: lines($("choices").value), ...image() }),
  },
  refcoco: { word: "Which one is meant?", body: (text) => ({ expression: text, ...image() }), scores: shared },
  retrieval: {
    word: "Text to find pictures of (none: captions of the picture)", scores: alone, optional: true,
    body: (text) => (text ? { text } : { image: image() }),
  },
  embeddings: {
    word: "Text (none: the picture)", scores: "", optional: true,
    body: (text) => (text ? { text } : { image: image() }),
  },
  sentences: { word: "Sentence", body: (text) => ({ text }), scores: shared },
  classification: { word: "", body: image, scores: shared },
};

const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const chosen = () => state.models[Number($("model").value)];
const taskOf = (model) => tasks[model.task] || tasks.question;
const embeds = (model) => state.models.some((one) => one.name === model.name && one.task === "embeddings");
const meaning = (model) => (model.task === "retrieval" && embeds(model) ? cosines : taskOf(model).scores);

function fit() {
  const model = chosen();
  if (!model) return;
  const task = taskOf(model);
  $("question-label").textContent = task.word || "Nothing to type: the picture is what is asked about";
  $("question").hidden = !task.word;
  $("question").placeholder = task === tasks.question ? "What color is the star?" : "";
  $("pictures").hidden = $("stage").hidden = !model.accepts.image;
  $("ask-title").textContent = task === tasks.question ? "A question" : "What to ask";
  $("choices-part").hidden = model.task !== "vcr";
  $("right-part").hidden = model.task !== "nlvr2";
  $("chips").hidden = task !== tasks.question;
  told();
}

function told() {
  const model = chosen();
  const pixels = model && !model.accepts.features;
  $("upload-note").hidden = !state.image;
  $("upload-note").textContent = pixels
    ? "The model sees the picture at the size that it was trained on, and knows what it was trained on alone."
    : "The model has only ever seen drawn shapes like those above. The picture is stretched to 128 × 96, and whatever "
      + "stands out from the ground is a region. About anything else the model can only guess among its answers.";
}

async function showGallery() {
  const buttons = await Promise.all(state.pictures.map(async (picture, index) => {
    const url = URL.createObjectURL(await (await call("/v1/pictures/" + picture.name)).blob());
    const button = make("button", "", { type: "button", "aria-pressed": "false", "data-name": picture.name });
    button.append(make("img", "", { src: url, alt: "Built-in picture " + (index + 1), width: 128, height: 96 }));
    button.addEventListener("click", () => choose(picture, url));
    return button;
  }));
  $("gallery").replaceChildren(...buttons);
  $("right").replaceChildren(...state.pictures.map((picture, index) =>
    make("option", "Built-in picture " + (index + 1), { value: picture.name })));
  if (buttons.length) buttons[0].click();
}

function choose(picture, url) {
  state.picture = picture.name;
  state.image = null;
  $("upload").value = "";
  told();
  stage(url, "Built-in picture to ask about");
  chips(picture.questions);
  mark();
}

async function upload() {
  const file = $("upload").files[0];
  if (!file) return;
  const data = await new Promise((done) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.readAsDataURL(file);
  });
  state.picture = null;
  state.image = data;
  told();
  stage(data, "Your picture");
  chips([]);
  mark();
}

function stage(url, alt) {
  $("shown").src = url;
  $("shown").alt = alt;
  $("boxes").replaceChildren();
  $("result").hidden = true;
  $("waiting").hidden = false;
  say(null);
}

function mark() {
  for (const button of $("gallery").children)
    button.setAttribute("aria-pressed", String(button.dataset.name === state.picture));
}

function chips(questions) {
  $("chips").replaceChildren(...questions.map((row) => {
    const chip = make("button", row.question, { type: "button" });
    chip.addEventListener("click", () => { $("question").value = row.question; ask(); });
    return chip;
  }));
}

async function ask() {
  const question = $("question").value.trim();
  const model = chosen();
  const task = taskOf(model);
  if (!question && task.word && !task.optional) { $("question").focus(); return; }
  const asked = { ...task.body(question), model: model.name, version: model.version, top_k: 5 };
  $("go").disabled = true;
  try {
    const begin = performance.now();
    const found = await (await call("/v1/" + model.task, { method: "POST", body: JSON.stringify(asked) })).json();
    show(question, found, performance.now() - begin, model);
    say(null);
  } catch (error) { say(error); } finally { $("go").disabled = false; }
}

function show(question, found, roundTrip, model) {
  $("result").hidden = false;
  $("waiting").hidden = true;
  $("asked").textContent = question;
  const answers = found.answers || [];
  const first = answers[0] || { label: "A vector of " + found.embedding.length + " numbers" };
  const region = first.region;
  $("best").textContent = region === undefined ? first.label : "Region " + region;
  $("scores").textContent = answers.length ? "The likeliest answers. " + meaning(model) : "";
  const seen = found.timing_ms.inference.toFixed(1) + " ms in the model, " + roundTrip.toFixed(0) + " ms in all";
  $("speed").textContent = seen + ", by " + title(model);
  $("answers").replaceChildren(...answers.map(bar));
  const boxes = found.boxes || (found.left ? found.left.boxes : []);
  const origin = found.boxes_from || (found.left ? found.left.boxes_from : "");
  drawBoxes(boxes, region);
  const people = peopleSay(question);
  const ms = (value) => value.toFixed(1) + " ms";
  const time = found.timing_ms;
  facts([
    ["model", found.model + " version " + found.model_version],
    ["runs on", model.backend + ", " + model.provider],
    ["model alone", ms(time.inference)],
    ["whole request", ms(time.total) + " on the server, " + ms(roundTrip) + " seen here"],
    ...(origin ? [["regions", boxes.length + " boxes, " + origins[origin]]] : []),
    ...(first.pixels ? [["x, y, width, height", first.pixels.join(", ") + " pixels"]] : []),
    ...(found.embedding ? [["it begins", found.embedding.slice(0, 6).map((one) => one.toFixed(3)).join(", ")]] : []),
    ...(found.searched ? [["searched", found.searched + " entries of the server's index"]] : []),
    ...(people ? [["people say", people]] : []),
  ]);
  const notes = [];
  const unknown = (found.unknown_words || []).join(", ");
  if (unknown) notes.push("Words that the model does not know: " + unknown + ".");
  if (found.question_cut) notes.push("The question was longer than the model reads, and was cut.");
  $("note").hidden = !notes.length;
  $("note").textContent = notes.join(" ");
  $("answer").scrollIntoView({ block: "nearest" });
}

const origins = {
  stored: "stored with the picture",
  proposed: "found in its pixels: whatever stands out from the ground",
  given: "given",
  none: "the model reads the pixels themselves",
};

function bar(answer) {
  const row = make("li", "");
  const track = make("span", "", { class: "bar", "aria-hidden": "true" });
  const fill = make("i", "");
  fill.style.width = Math.max(0, 100 * answer.score) + "%";  // a cosine may be negative
  track.append(fill);
  row.append(make("span", answer.label, { class: "label" }), track);
  row.append(make("span", (100 * answer.score).toFixed(1) + " %", { class: "score" }));
  return row;
}

function facts(rows) {
  $("facts").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
}

function peopleSay(question) {
  const picture = state.pictures.find((one) => one.name === state.picture);
  const row = picture && picture.questions.find((one) => one.question === question);
  return row ? row.people : "";
}

function drawBoxes(boxes, best) {
  $("boxes").replaceChildren(...boxes.map(([x1, y1, x2, y2], index) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 }))
      rect.setAttribute(name, value);
    if (index === best) rect.setAttribute("class", "best");
    return rect;
  }));
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
$("upload").addEventListener("change", upload);
$("model").addEventListener("change", fit);
$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = $("token").value.trim();
  start();
});
start();
