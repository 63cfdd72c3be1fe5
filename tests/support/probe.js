// Measures the page in the frame. Runs in the browser, beside the page: the page itself lets no script run.
addEventListener('load', () => {
  const inner = frame.contentWindow, page = frame.contentDocument, wide = page.documentElement.clientWidth;
  const name = element => element.tagName + '.' + (element.getAttribute('class') || '') + ' ' + element.textContent.slice(0, 40);

  const outside = [];
  for (const element of page.body.querySelectorAll('*')) {
    const box = element.getBoundingClientRect();
    // What is there for screen readers alone has one point.
    if (element.closest('thead') && box.width <= 1 || element.closest('thead') && wide < 704) continue;
    if (box.width && (box.left < -0.5 || box.right > wide + 0.5)) outside.push(name(element));
  }

  const spills = [...page.body.querySelectorAll('p, li, dt, dd, td, th, figcaption, h1, h2, h3, h4')]
    .filter(element => element.clientWidth > 1 && element.scrollWidth > element.clientWidth + 1).map(name);

  const number = colour => (colour.match(/[\d.]+/g) || []).map(Number);
  const light = colour => {
    const [red, green, blue] = number(colour).map(part => (part /= 255) <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = inner.getComputedStyle(element).backgroundColor;
      if (number(colour)[3] !== 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  // Web Content Accessibility Guidelines 2.2, 1.4.3.
  const faint = [];
  for (const element of page.body.querySelectorAll('*')) {
    const text = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!text || element.tagName === 'title') continue;
    const style = inner.getComputedStyle(element);
    const ink = light(element instanceof inner.SVGElement ? style.fill : style.color), paper = light(behind(element));
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) faint.push(name(element) + ' ' + contrast.toFixed(2));
  }

  const seen = {
    wide,
    scrolls: page.documentElement.scrollWidth,
    high: Math.ceil(page.body.getBoundingClientRect().bottom),
    paper: inner.getComputedStyle(page.documentElement).backgroundColor,
    outside, spills, faint,
    fetched: inner.performance.getEntriesByType('resource').map(entry => entry.name),
    ran: inner.ran === undefined ? null : inner.ran,
    scripts: page.querySelectorAll('script').length,
    foreign: page.querySelectorAll('img, iframe, object, embed, link, a, form, input, video, audio, base').length,
    unnamed: [...page.querySelectorAll('svg')].filter(svg => !svg.parentElement.closest('svg')
      && !svg.getAttribute('aria-label') && svg.getAttribute('aria-hidden') !== 'true').length,
    headings: [...page.querySelectorAll('h1, h2, h3, h4')].map(heading => heading.textContent),
    marks: Object.fromEntries(['good', 'kept', 'incomplete', 'damaged', 'lost', 'gap', 'window', 'hole', 'fork', 'bar'].map(
      kind => [kind, page.querySelectorAll('.timeline .' + kind + ', .bars .' + kind).length])),
    titles: [...page.querySelectorAll('.timeline title')].map(title => title.textContent),
    loaded: Math.round(inner.performance.getEntriesByType('navigation')[0].loadEventEnd),
    text: page.body.innerText,
  };
  out.textContent = btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(seen))));
});
