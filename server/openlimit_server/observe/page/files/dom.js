// Elements. All that is shown is set as text: nothing is ever parsed as HTML.

/** An element with attributes (what is null or false is left out), and children or texts. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets the text if it differs, so that a selection in it lives on. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute, or removes it. */
export function mark(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/**
 * Children of an element that stand for things: `keep` makes one for each key that is new, updates
 * all, drops the others and orders them. So focus and selection stay.
 */
export class Children {
  constructor(parent, make) {
    this.parent = parent;
    this.make = make; // (key) => { element, update(thing), drop?() }
    this.kept = new Map();
  }

  keep(things) { // [[key, thing], ...]
    const gone = new Set(this.kept.keys());
    let before = null;
    for (const [key, thing] of things) {
      gone.delete(key);
      if (!this.kept.has(key)) this.kept.set(key, this.make(key, thing));
      const child = this.kept.get(key);
      const place = before ? before.nextSibling : this.parent.firstChild;
      if (child.element !== place) this.parent.insertBefore(child.element, place);
      child.update(thing);
      before = child.element;
    }
    for (const key of gone) {
      const child = this.kept.get(key);
      child.drop?.();
      child.element.remove();
      this.kept.delete(key);
    }
  }
}
