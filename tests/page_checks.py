"""What any page owes to everybody, as JavaScript that returns what is at fault."""

NAMELESS = """() => {
  const controls = 'button, input, select, textarea, summary, canvas, [role], [tabindex="0"]';
  const textOf = (id) => document.getElementById(id)?.textContent ?? '';
  const nameOf = (one) => [
    one.getAttribute('aria-label') ?? '',
    ...(one.getAttribute('aria-labelledby') ?? '').split(' ').map(textOf),
    one.labels?.[0]?.textContent ?? '',
    one.matches('input, select, textarea, canvas') ? '' : one.textContent,
  ].join('').trim();
  return [...document.querySelectorAll(controls)]
    .filter((one) => one.checkVisibility() && !one.closest('[aria-hidden=true]') && !nameOf(one))
    .map((one) => one.outerHTML.slice(0, 90));
}"""
"""Controls that can be seen and have no name for those who cannot."""

FAINT = """() => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 1;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  const levels = (colour) => { // [red, green, blue, alpha], however the colour is written
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const luminance = (colour) => colour.slice(0, 3).map((level) => level / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const over = (below, [r, g, b, a]) => [r, g, b].map((level, at) => level * a + below[at] * (1 - a));
  const behind = (one) => {
    const all = [];
    for (let box = one; box; box = box.parentElement) all.unshift(levels(getComputedStyle(box).backgroundColor));
    return all.reduce(over, [255, 255, 255]);
  };
  const passed = ':disabled, .unseen, .skip, .tag, option, noscript, script';
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    const text = walker.currentNode.data.trim();
    if (!text || !one.checkVisibility({ visibilityProperty: true }) || one.closest(passed)) continue;
    const [front, back] = [luminance(levels(getComputedStyle(one).color)), luminance(behind(one))];
    const contrast = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (contrast < 4.5) found.push(`${contrast.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return found;
}"""
"""Texts whose contrast with what is behind them is below 4.5, as WCAG asks of AA; those on pictures are passed over."""

SMALL = """() => [...document.querySelectorAll('button, select, summary, textarea, .segments span')]
  .filter((one) => one.checkVisibility() && !one.matches('.link'))
  .filter((one) => one.getBoundingClientRect().height < 43.5)
  .map((one) => one.outerHTML.slice(0, 90))"""
"""Controls that are less than 44 CSS pixels high, as a finger wants them."""

LONGEST_FRAME = """async () => {
  let longest = 0;
  for (let frame = 0, last = performance.now(); frame < 60; frame += 1) {
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    [longest, last] = [Math.max(longest, now - last), now];
  }
  return longest;
}"""
"""Milliseconds between two pictures of the screen, at most, of sixty."""
