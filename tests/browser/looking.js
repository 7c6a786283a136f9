// What an audit of a page looks at; an expression of Chromium's `Runtime.evaluate`.
globalThis.audit = (() => {
  const shown = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const parse = (color) => (color.match(/[\d.]+/g) ?? []).map(Number);
  const over = ([r, g, b, a = 1], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
  const background = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  // WCAG 2.2, "relative luminance" and "contrast ratio"
  const luminance = (color) => {
    const [r, g, b] = color.map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const describe = (element) => `${element.tagName.toLowerCase()}#${element.id}.${element.className} “${element.textContent.trim().slice(0, 30)}”`;
  const all = () => [...document.body.querySelectorAll("*")].filter(shown);
  return {
    /** Text that is too faint: 1.4.3 (4.5, or 3 for large text). */
    faint: () => all()
      .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
      .filter((element) => !element.disabled && !(element.closest(".skip") && document.activeElement !== element))
      .flatMap((element) => {
        const style = getComputedStyle(element);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        const found = ratio(over(parse(style.color), background(element)), background(element));
        return found >= (large ? 3 : 4.5) ? [] : [`${found.toFixed(2)} ${describe(element)}`];
      }),
    /** Fields whose edge cannot be seen: 1.4.11 (3). */
    edgeless: () => all()
      .filter((element) => element.matches("input, select, textarea, button:not(.primary, :disabled)"))
      .flatMap((element) => {
        const edge = over(parse(getComputedStyle(element).borderTopColor), background(element));
        const found = ratio(edge, background(element.parentElement));
        return found >= 3 ? [] : [`${found.toFixed(2)} ${describe(element)}`];
      }),
    /** What sticks out of the page at its sides: 1.4.10. */
    outside: () => all()
      .filter((element) => !element.closest("#dots, .skip"))
      .filter((element) => element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
      .map(describe),
    /** Targets that are too small to hit: 2.5.8. */
    small: () => all()
      .filter((element) => element.matches("button, input, select, textarea"))
      .filter((element) => Math.min(element.offsetWidth, element.offsetHeight) < 24)
      .map(describe),
    /** What has the focus. */
    focus: () => {
      const element = document.activeElement;
      const outline = getComputedStyle(element);
      const label = element.labels?.[0]?.textContent ?? element.getAttribute("aria-label") ?? element.textContent;
      return [label.trim().slice(0, 40), outline.outlineStyle !== "none" && parseFloat(outline.outlineWidth) >= 2];
    },
  };
})();
