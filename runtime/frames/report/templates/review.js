// Review on the slide page: takes what a person says of each cell, and saves it as corrections.csv.
(() => {
  const panel = document.querySelector(".review");
  if (!panel) return;
  const { columns, complete, formula, answers, frames } = JSON.parse(panel.querySelector(".settings").textContent);
  const field = (name) => panel.querySelector(`[name=${name}]`), said = panel.querySelector(".said");
  const cells = [...document.querySelectorAll(".cell")], whole = [...panel.querySelectorAll("[name=complete]")];
  const answer = (cell) => cell.querySelector(".answer");
  const added = [];
  let unsaved = false;
  const tell = () => {
    for (const cell of cells) {
      cell.classList.toggle("answered", answer(cell).value !== "");
      cell.classList.toggle("changed", answer(cell).value !== "" && answer(cell).value !== cell.dataset.old);
    }
    for (const box of whole) {
      const own = cells.filter((cell) => cell.dataset.frame === box.value);
      box.disabled = own.length < frames[box.value].cells || own.some((cell) => answer(cell).value === "");
      if (box.disabled) box.checked = false;
    }
    const count = cells.filter((cell) => answer(cell).value !== "").length;
    const changed = cells.filter((cell) => cell.classList.contains("changed")).length;
    const more = added.length ? `, and ${added.length} rows of other cells from the saved file` : "";
    const state = unsaved ? "; not saved" : "";
    said.textContent = `${count} of ${cells.length} cells reviewed, ${changed} of them changed${more}${state}`;
  };
  const warn = (event) => event.preventDefault();
  const change = () => {
    unsaved = true;
    window.addEventListener("beforeunload", warn);
    tell();
  };
  const guarded = (text) => formula.includes(text[0]) ? "./" + text : text;
  const quoted = (value) => /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
  const rows = (who, when) => {
    const made = cells.filter((cell) => answer(cell).value !== "").map((cell) => [
      guarded(frames[cell.dataset.frame].path), cell.dataset.number, ...cell.dataset.box.split(","), cell.dataset.old,
      answer(cell).value, cell.dataset.who || who, cell.dataset.when || when]);
    const looked = whole.filter((box) => box.checked).map((box) => [
      guarded(frames[box.value].path), "", "", "", "", "", "", complete, who, when]);
    return [...added, ...made, ...looked];
  };
  const parsed = (text) => {
    const table = [[""]];
    for (let at = 0, inside = false; at < text.length; at++) {
      const letter = text[at], row = table.at(-1);
      if (inside && letter === '"' && text[at + 1] === '"') row[row.length - 1] += text[++at];
      else if (letter === '"') inside = !inside;
      else if (letter === "," && !inside) row.push("");
      else if (letter === "\n" && !inside) table.push([""]);
      else if (letter !== "\r" || inside) row[row.length - 1] += letter;
    }
    return table.filter((row) => row.length > 1);
  };
  const take = (text) => {
    const [head, ...table] = parsed(text.replace(/^\ufeff/, ""));
    if (!head || columns.some((name) => !head.includes(name))) {
      said.textContent = "This is no corrections.csv: its columns are missing.";
      return;
    }
    added.length = 0;
    for (const values of table) {
      const row = Object.fromEntries(head.map((name, place) => [name, values[place] ?? ""]));
      const box = [row.x0, row.y0, row.x1, row.y1].join(",");
      const place = frames.findIndex(({ path }) => guarded(path) === row.path);
      const cell = cells.find((one) => one.dataset.frame === String(place) && one.dataset.box === box);
      if (cell && answers.includes(row.new)) {
        answer(cell).value = row.new;
        Object.assign(cell.dataset, { who: row.who, when: row.when });
      } else if (place < 0 || row.new !== complete) added.push(columns.map((name) => row[name]));
    }
    tell();
    for (const row of table) {
      const place = frames.findIndex(({ path }) => guarded(path) === row[head.indexOf("path")]);
      const box = whole.find((one) => one.value === String(place));
      if (box && row[head.indexOf("new")] === complete && !box.disabled) box.checked = true;
    }
  };
  document.addEventListener("change", (event) => {
    if (event.target.matches(".answer")) {
      const cell = event.target.closest(".cell");
      delete cell.dataset.who;
      delete cell.dataset.when;
      change();
    } else if (event.target.name === "complete") change();
  });
  field("confirm").addEventListener("click", () => {
    for (const cell of cells.filter((one) => !one.hidden && answer(one).value === "")) {
      if (answers.includes(cell.dataset.old)) answer(cell).value = cell.dataset.old;
    }
    change();
  });
  field("load").addEventListener("change", async (event) => {
    if (event.target.files.length) take(await event.target.files[0].text());
  });
  field("save").addEventListener("click", () => {
    const who = field("who").value.trim().replace(/^[=+\-@\s]+/, "");
    if (!who) {
      said.textContent = "Who are you? Type your name or initials first.";
      field("who").focus();
      return;
    }
    const lines = [columns, ...rows(who, new Date().toISOString())].map((row) => row.map(quoted).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = "corrections.csv";
    link.click();
    unsaved = false;
    window.removeEventListener("beforeunload", warn);
    tell();
  });
  document.documentElement.classList.add("live");
  tell();
})();
