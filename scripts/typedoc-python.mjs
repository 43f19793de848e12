/** Plugin of typedoc: a link to the reference of the Python package, which another tool writes beside it, on every page. */

import { JSX } from 'typedoc';

export function load({ renderer }) {
  renderer.hooks.on('pageSidebar.begin', (context) =>
    JSX.createElement('a', { href: context.relativeURL('python/index.html') }, 'Python reference'),
  );
}
