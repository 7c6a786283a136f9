/** The little that is needed of a view library. */

/** @param {string} id */
export const find = (id) => /** @type {any} */ (document.getElementById(id));

/**
 * An element: `h("button", { type: "button", onclick }, "Text", child)`; names with `-` and `role` are attributes.
 * @param {string} tag
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/**
 * Make the children of `parent` those of `items`, by key: an element stays where its item does, so focus stays, too.
 * `make(item)` gives an element; `update(element, item)` is called for all.
 */
export function keyed(parent, items, keyOf, make, update = () => {}) {
  const old = new Map([...parent.children].map((element) => [element.dataset.key, element]));
  items.forEach((item, place) => {
    const key = String(keyOf(item));
    let element = old.get(key);
    old.delete(key);
    if (!element) {
      element = make(item);
      element.dataset.key = key;
    }
    if (parent.children[place] !== element) parent.insertBefore(element, parent.children[place] ?? null);
    update(element, item);
  });
  for (const element of old.values()) element.remove();
}

/** Set text where it changed: screen readers and animations see changes alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
