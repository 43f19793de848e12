/** A jax-js model as the adapter runs it: predictions of both branches at once, and the way back from their cotangent to the parameters. */

import type { Array as JaxArray, JsTree } from '@jax-js/jax';

/** An array, or arrays in nested plain objects and arrays: parameters, or inputs of a model. */
export type ArrayTree = JsTree<JaxArray>;

/**
 * The model: predictions [n, …] for inputs of n rows. Follows the ownership rule of jax-js: it consumes what it is given, whatever it does
 * not use included.
 */
export type Apply<P extends ArrayTree, I extends ArrayTree> = (params: P, inputs: I) => JaxArray;

/** The functions of jax-js that a model needs, for trees that are type parameters: its own declarations want concrete ones. */
export interface JaxFunctions {
  jit<A extends unknown[], R>(f: (...args: A) => R): Owned<(...args: A) => R>;
  vjp<P>(f: (params: P) => JaxArray, primals: [P]): [JaxArray, Owned<(cotangent: JaxArray) => [P]>];
  numpy: { concatenate(arrays: JaxArray[], axis: number): JaxArray };
  tree: {
    ref<T>(tree: T): T;
    dispose(tree: unknown): void;
    map<T>(f: (first: JaxArray, second: JaxArray) => JaxArray, first: T, second: T): T;
  };
}

type Owned<F> = F & { dispose(): void };

/** Prediction and derivative at one point; `release` frees what the derivative holds. */
interface Linearization<P extends ArrayTree> {
  readonly prediction: JaxArray;
  /** Gradient with respect to the parameters, from the cotangent of the prediction, which is consumed. */
  pullback(cotangent: JaxArray): P;
  release(): void;
}

/** Borrows its arguments, unlike jax-js itself: the caller still owns them after each call. `inputs` are one tree, or one per branch. */
export interface Model<P extends ArrayTree, I extends ArrayTree> {
  predict(params: P, inputs: I[]): JaxArray;
  linearize(params: P, inputs: I[]): Linearization<P>;
  dispose(): void;
}

/**
 * Compiles the forward pass, and apart from it the vjp, which repeats the forward pass. For small models that takes less than half the time of
 * the vjp of a compiled function, which is slow to call; for large ones about as much.
 */
export function compiledModel<P extends ArrayTree, I extends ArrayTree>(
  jax: JaxFunctions,
  apply: Apply<P, I>,
): Model<P, I> {
  const { jit, tree, vjp } = jax;
  const forward = jit((params: P, inputs: I[]) => apply(params, stack(jax, inputs)));
  const backward = jit((params: P, inputs: I[], cotangent: JaxArray) => {
    const [prediction, pullback] = vjp((p: P) => apply(p, stack(jax, tree.ref(inputs))), [params]);
    tree.dispose(inputs);
    prediction.dispose();
    const [gradients] = pullback(cotangent);
    pullback.dispose();
    return gradients;
  });
  const predict = (params: P, inputs: I[]) => forward(tree.ref(params), tree.ref(inputs));
  return {
    predict,
    linearize: (params, inputs) => ({
      prediction: predict(params, inputs),
      pullback: (cotangent) => backward(tree.ref(params), tree.ref(inputs), cotangent),
      release() {},
    }),
    dispose() {
      forward.dispose();
      backward.dispose();
    },
  };
}

/** Runs and differentiates the model as it is. */
export function tracedModel<P extends ArrayTree, I extends ArrayTree>(
  jax: JaxFunctions,
  apply: Apply<P, I>,
): Model<P, I> {
  const { tree, vjp } = jax;
  const at = (inputs: I[]) => (params: P) => apply(params, stack(jax, tree.ref(inputs)));
  return {
    predict: (params, inputs) => at(inputs)(tree.ref(params)),
    linearize(params, inputs) {
      const [prediction, pullback] = vjp(at(inputs), [tree.ref(params)]);
      return { prediction, pullback: (cotangent) => pullback(cotangent)[0], release: () => pullback.dispose() };
    },
    dispose() {},
  };
}

/** One tree for both branches, so that they go through the model together: half the calls, on matrices of twice the height. */
function stack<I extends ArrayTree>({ numpy, tree }: JaxFunctions, [first, second]: I[]): I {
  if (second === undefined) return first!;
  return tree.map((chosen, rejected) => numpy.concatenate([chosen, rejected], 0), first!, second);
}
