import { call, listAll, session } from "./api.js";
import { formatTime, setLanguage, t } from "./i18n.js";

const refreshEvery = 10_000; // ms
const rowsAtOnce = 200;
const $ = (id) => document.getElementById(id);
const path = (object) => (object ? `${object.namespace}/${object.name}` : "");

// A column has a text for sorting and filtering, and may draw itself otherwise.
const views = {
  pods: {
    method: "ListAppPods", title: "appPods", scoped: true,
    columns: {
      name: { text: (p) => p.name, draw: nameCell },
      namespace: { text: (p) => p.namespace },
      volumes: { text: (p) => (p.volumes ?? []).map((v) => `${v.claim} ${v.volume ?? ""}`).join(" "), draw: volumesCell },
      mountPods: { text: (p) => (p.mountPods ?? []).map(path).join(" "), draw: (p) => list((p.mountPods ?? []).map(path)) },
      status: { text: (p) => p.status },
      created: { text: (p) => formatTime(p.createdAt), order: (p) => p.createdAt ?? "" },
      node: { text: (p) => p.node ?? "", hidden: true },
      csiNode: { text: (p) => path(p.csiNode) },
    },
  },
  mounts: {
    method: "ListMountPods", title: "mountPods", scoped: false,
    columns: {
      name: { text: (p) => p.name, draw: nameCell },
      namespace: { text: (p) => p.namespace, hidden: true },
      uniqueId: { text: (p) => p.uniqueId ?? "" },
      node: { text: (p) => p.node ?? "" },
      status: { text: (p) => p.status },
      image: { text: (p) => p.image ?? "" },
      apps: { text: (p) => (p.appPods ?? []).map(path).join(" "), draw: (p) => list((p.appPods ?? []).map(path)) },
      created: { text: (p) => formatTime(p.createdAt), order: (p) => p.createdAt ?? "" },
    },
  },
};

const state = {
  view: "pods",
  pods: [],
  total: 0,
  loaded: false,
  limit: rowsAtOnce,
  sort: { column: "created", descending: true },
  open: new Set(), // UIDs whose cause is shown
  request: null,
};

// --- reading ---------------------------------------------------------------

async function load() {
  state.request?.abort();
  const request = state.request = new AbortController();
  const view = views[state.view];
  const pods = [];
  try {
    for await (const page of listAll(view.method, view.scoped ? { namespace: $("namespace").value.trim() } : {}, request.signal)) {
      pods.push(...page.pods);
      state.total = page.total;
      if (!state.loaded) show(pods); // the first time, rows come as they are read
    }
    show(pods);
    say("");
  } catch (error) {
    if (error.name === "AbortError") return;
    const signedIn = Boolean(session.token);
    if (error.code === "unauthenticated") session.token = "";
    if (error.code) show([]);
    if (!error.code) say(t("unreachable", { cause: error.message }));
    else say(error.code === "unauthenticated" && !signedIn ? t("needSignIn") : error.message);
    showSession();
  }
}

function show(pods) {
  state.pods = pods;
  state.loaded = true;
  drawStatuses();
  draw();
}

async function loadServer() {
  try {
    const info = await call("GetServerInfo", {});
    $("release").textContent = t("release", { release: info.release, namespace: info.mountNamespace });
  } catch { /* load() tells why */ }
}

function say(text) {
  const message = $("message");
  message.hidden = !text;
  if (message.textContent !== text) message.textContent = text;
}

// --- drawing ---------------------------------------------------------------

function draw() {
  const columns = visibleColumns();
  const pods = sorted(state.pods.filter(matches));
  drawHead(columns);
  const rows = [];
  for (const pod of pods.slice(0, state.limit)) {
    rows.push(row(columns.map(([, column]) => cell(column, pod))));
    if (pod.problem && state.open.has(pod.uid)) rows.push(causeRow(pod, columns.length));
  }
  if (rows.length === 0) rows.push(wideRow(state.loaded ? t("none") : t("loading"), columns.length));
  replaceRows(rows);
  $("count").textContent = t("count", { shown: pods.length, total: Math.max(state.total, state.pods.length) });
  $("more").hidden = pods.length <= state.limit;
  $("caption").textContent = t(views[state.view].title);
}

// The focus survives a redraw: a keyboard user must not be thrown to the top.
function replaceRows(rows) {
  const focused = document.activeElement?.dataset?.uid;
  $("rows").replaceChildren(...rows);
  if (focused) $("rows").querySelector(`[data-uid="${CSS.escape(focused)}"]`)?.focus();
}

function drawHead(columns) {
  const focused = document.activeElement?.dataset?.column;
  $("head").replaceChildren(...columns.map(([name]) => {
    const head = element("th", { scope: "col" });
    if (state.sort.column === name) head.ariaSort = state.sort.descending ? "descending" : "ascending";
    const button = element("button", { type: "button", textContent: t(name) });
    button.dataset.column = name;
    button.addEventListener("click", () => sortBy(name));
    head.append(button);
    return head;
  }));
  if (focused) $("head").querySelector(`[data-column="${CSS.escape(focused)}"]`)?.focus();
}

function drawColumnChoice() {
  $("columns").replaceChildren(...Object.entries(views[state.view].columns).map(([name, column]) => {
    const box = element("input", { type: "checkbox", checked: !isHidden(name, column) });
    box.addEventListener("change", () => {
      remember(`column.${state.view}.${name}`, box.checked ? "shown" : "hidden");
      draw();
    });
    const label = element("label");
    label.append(box, " ", t(name));
    return label;
  }));
}

function drawStatuses() {
  const chosen = $("status").value;
  const statuses = [...new Set(state.pods.map((p) => p.status))].sort();
  if (chosen && !statuses.includes(chosen)) statuses.push(chosen);
  $("status").replaceChildren(
    element("option", { value: "", textContent: t("anyStatus") }),
    ...statuses.map((s) => element("option", { value: s, textContent: s })),
  );
  $("status").value = chosen;
}

function nameCell(pod) {
  const parts = [pod.name];
  if (pod.problem) {
    const badge = element("button", { type: "button", className: "badge", textContent: "!", title: pod.problem });
    badge.ariaLabel = t("why", { name: pod.name });
    badge.ariaExpanded = String(state.open.has(pod.uid));
    badge.dataset.uid = pod.uid;
    badge.addEventListener("click", () => {
      state.open.delete(pod.uid) || state.open.add(pod.uid);
      draw();
    });
    parts.push(badge);
  }
  return parts;
}

function volumesCell(pod) {
  return list((pod.volumes ?? []).map((v) => {
    const name = element("span", { className: "quiet", textContent: ` ${v.volume || t("unbound")}` });
    return [v.claim, name];
  }));
}

function list(items) {
  const ul = element("ul");
  ul.append(...items.map((item) => {
    const li = element("li");
    li.append(...[item].flat());
    return li;
  }));
  return [ul];
}

function cell(column, pod) {
  const td = element("td");
  td.append(...(column.draw ? column.draw(pod) : [column.text(pod)]));
  return td;
}

function row(cells, className = "") {
  const tr = element("tr", { className });
  tr.append(...cells);
  return tr;
}

function wideRow(text, width, className) {
  return row([element("td", { colSpan: width, textContent: text })], className);
}

function causeRow(pod, width) {
  return wideRow(pod.problem, width, "cause");
}

// Text is only ever set as text: names and messages of a cluster are not HTML.
function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

// --- choosing --------------------------------------------------------------

function isHidden(name, column) {
  const choice = recall(`column.${state.view}.${name}`);
  return choice ? choice === "hidden" : Boolean(column.hidden);
}

function visibleColumns() {
  return Object.entries(views[state.view].columns).filter(([name, column]) => !isHidden(name, column));
}

function matches(pod) {
  if ($("problems").checked && !pod.problem) return false;
  if ($("status").value && pod.status !== $("status").value) return false;
  const words = $("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return true;
  const text = Object.values(views[state.view].columns).map((c) => c.text(pod)).join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

function sorted(pods) {
  const column = views[state.view].columns[state.sort.column];
  if (!column) return pods;
  const order = column.order ?? column.text;
  const sign = state.sort.descending ? -1 : 1;
  return pods
    .map((pod) => [order(pod), pod])
    .sort(([a], [b]) => sign * (a < b ? -1 : a > b ? 1 : 0))
    .map(([, pod]) => pod);
}

function sortBy(name) {
  const same = state.sort.column === name;
  state.sort = { column: name, descending: same ? !state.sort.descending : name === "created" };
  draw();
}

function remember(key, value) {
  localStorage.setItem(`juicefs.${key}`, value);
}

function recall(key) {
  return localStorage.getItem(`juicefs.${key}`);
}

// --- wiring ----------------------------------------------------------------

function route() {
  const wanted = location.hash.replace(/^#\//, "");
  state.view = wanted in views ? wanted : "pods";
  state.pods = [];
  state.total = 0;
  state.loaded = false;
  state.limit = rowsAtOnce;
  state.sort = { column: "created", descending: true };
  for (const link of document.querySelectorAll("nav a")) {
    const current = link.getAttribute("href") === `#/${state.view}`;
    current ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  $("namespace").closest("label").hidden = !views[state.view].scoped;
  drawColumnChoice();
  draw();
  load();
}

function showSession() {
  $("sign").textContent = t(session.token ? "signOut" : "signIn");
}

function choose(language) {
  remember("language", language);
  $("language").value = setLanguage(language);
  showSession();
  loadServer();
}

function signInOrOut() {
  if (session.token) {
    session.token = "";
    showSession();
    state.loaded = false;
    load();
    return;
  }
  $("token").value = "";
  $("dialog").returnValue = "";
  $("dialog").showModal();
}

function changeTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  remember("theme", document.documentElement.dataset.theme);
}

function after(delay, action) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, delay);
  };
}

function start() {
  const theme = recall("theme");
  if (theme) document.documentElement.dataset.theme = theme;
  choose(recall("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));

  $("language").addEventListener("change", () => { choose($("language").value); drawColumnChoice(); drawStatuses(); draw(); });
  $("theme").addEventListener("click", changeTheme);
  $("refresh").addEventListener("click", load);
  $("sign").addEventListener("click", signInOrOut);
  $("cancel").addEventListener("click", () => $("dialog").close(""));
  $("dialog").addEventListener("close", () => {
    if ($("dialog").returnValue === "ok" && $("token").value.trim()) {
      session.token = $("token").value.trim();
      state.loaded = false;
      showSession();
      load();
    }
    $("token").value = "";
  });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("namespace").addEventListener("input", after(400, load));
  for (const id of ["text", "status", "problems"]) $(id).addEventListener("input", after(50, draw));
  $("more").addEventListener("click", () => { state.limit += rowsAtOnce; draw(); });
  addEventListener("hashchange", route);
  setInterval(() => { if ($("live").checked && !document.hidden && !$("dialog").open) load(); }, refreshEvery);
  route();
}

start();
