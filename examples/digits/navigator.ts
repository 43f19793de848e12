/** Gives Node 20 the empty `navigator` global that jax-js looks at when it compiles a kernel; newer versions of Node have one. */

(globalThis as { navigator?: unknown }).navigator ??= {};

export {};
