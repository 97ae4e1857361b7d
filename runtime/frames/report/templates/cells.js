// Sorts and filters the cells of a slide page.
// What is chosen stands in the address behind '#', so that a view can be kept as a bookmark.
(() => {
  const form = document.querySelector("form"), list = document.querySelector(".cells");
  if (!form || !list) return;
  const cells = [...list.children], said = document.querySelector("output");
  const value = (cell, name, missing) => cell.dataset[name] === "" ? missing : Number(cell.dataset[name]);
  const orders = {
    score: (a, b) => value(b, "score", -1) - value(a, "score", -1),
    hem: (a, b) => value(a, "score", 2) - value(b, "score", 2),
    size: (a, b) => value(b, "size", 0) - value(a, "size", 0),
    place: (a, b) => a.dataset.frame - b.dataset.frame || a.dataset.number - b.dataset.number,
  };
  const show = () => {
    const wanted = Object.fromEntries(new FormData(form));
    cells.sort(orders[wanted.sort]);
    let shown = 0;
    for (const cell of cells) {
      const { kind, frame } = cell.dataset;
      const fits = (!wanted.show || kind === wanted.show) && (!wanted.frame || frame === wanted.frame);
      cell.hidden = !fits;
      shown += fits;
    }
    list.append(...cells);
    said.textContent = `${shown} of ${cells.length} cells`;
  };
  const read = () => {
    for (const [name, chosen] of new URLSearchParams(location.hash.slice(1))) {
      const field = form.elements[name];
      if (field && [...field.options].some((option) => option.value === chosen)) field.value = chosen;
    }
    show();
  };
  form.addEventListener("change", () => {
    history.replaceState(null, "", "#" + new URLSearchParams(new FormData(form)));
    show();
  });
  window.addEventListener("hashchange", () => {
    read();
    form.scrollIntoView();
  });
  document.documentElement.classList.add("live");
  read();
})();
