// The table of items, and columns that sort. Everything a model wrote reaches the page through textContent, so it is text and nothing else.
"use strict";
(function () {
  const data = JSON.parse(document.getElementById("item-data").textContent);
  const words = { "lost": "▼ lost", "gained": "▲ gained", "same-right": "right both times", "same-wrong": "wrong both times" };
  const items = data.items.map(function (row) {
    const [arm, suite, id, kind, prompt, target, before, after] = row;
    const item = { arm: data.arms[arm], suite: data.suites[suite], id, kind: data.kinds[kind], prompt, target, before, after };
    item.search = [item.suite, id, prompt, target, before, after].join("\n").toLowerCase();
    return item;
  });
  const table = document.getElementById("item-table"), body = table.tBodies[0];
  const count = document.getElementById("f-count"), more = document.getElementById("f-more");
  const fields = { text: null, arm: null, suite: null, outcome: null };
  for (const name in fields) fields[name] = document.getElementById("f-" + name);
  const PAGE = 25;
  let found = [], shown = 0;

  function element(tag, look, text) {
    const made = document.createElement(tag);
    if (look) made.className = look;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function quote(heading, text, look) {
    const cell = element("td", look);
    cell.append(element("span", "over", heading), element("q", "", text === "" ? "(empty)" : text));
    return cell;
  }

  function draw() {
    for (const item of found.slice(shown, shown + PAGE)) {
      const row = element("tr", item.kind), first = element("td", "what");
      first.append(element("span", "tag", words[item.kind]), element("span", "where", item.suite + " · " + item.arm));
      first.title = item.id;
      row.append(first, quote("asked", item.prompt, "asked"), quote("expected", item.target, "target"));
      row.append(quote("base", item.before, "before"), quote(item.arm, item.after, "after"));
      body.append(row);
    }
    shown = Math.min(shown + PAGE, found.length);
    const number = (n) => n.toLocaleString("en-US");
    count.textContent = found.length ? number(shown) + " of " + number(found.length) + " shown" : "No item fits.";
    more.hidden = shown >= found.length;
    table.hidden = !found.length;
  }

  function filter() {
    const text = fields.text.value.trim().toLowerCase(), arm = fields.arm.value, suite = fields.suite.value, kind = fields.outcome.value;
    found = items.filter((i) => (!arm || i.arm === arm) && (!suite || i.suite === suite) && (!kind || i.kind === kind) && (!text || i.search.includes(text)));
    shown = 0;
    body.replaceChildren();
    draw();
  }

  for (const name in fields) fields[name].addEventListener("input", filter);
  more.addEventListener("click", draw);

  // #items?arm=...&suite=...&outcome=...&text=... : what the counts in the tables lead to, and what one can send to others
  function follow() {
    const wanted = location.hash.match(/^#items\?(.*)$/);
    if (wanted) {
      const choice = new URLSearchParams(wanted[1]);
      for (const name in fields) fields[name].value = choice.get(name) || "";
      document.getElementById("items").scrollIntoView();
    }
    filter();
  }

  window.addEventListener("hashchange", follow);
  document.querySelector(".filter").hidden = false;
  follow();
})();

// Every other table sorts by a click on a column's title: downwards, upwards, as it was.
(function () {
  const number = (text) => parseFloat(text.replace(/[,<\s]/g, "").replace("−", "-"));
  for (const table of document.querySelectorAll(".scroll table")) {
    const body = table.tBodies[0], rows = [...body.rows];
    if (rows.length < 3) continue;
    [...table.tHead.rows[0].cells].forEach(function (head, column) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", function () {
        const next = { none: "descending", descending: "ascending", ascending: "none" }[head.ariaSort || "none"];
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        if (next !== "none") head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1, numeric = head.classList.contains("n");
        const key = (row) => row.cells[column].textContent.trim();
        const compare = function (one, other) {
          if (one.className !== other.className) return one.className ? 1 : -1;  // a sum stays at the end
          const [a, b] = [key(one), key(other)];
          if (!numeric) return sign * a.localeCompare(b, "en", { numeric: true });
          const [x, y] = [number(a), number(b)];
          return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : sign * (x - y);
        };
        body.replaceChildren(...(next === "none" ? rows : [...rows].sort(compare)));
      });
    });
  }
})();
