/** An evaluation for the linear policy of the tests: the size of its weights, and which pairs it was told of. */

export default function linearEvaluation({ name = 'norm' }, { shape, data, schedule, seed, folder }) {
  if (data.shape !== shape || schedule.trainSteps !== 1000 || typeof seed !== 'number' || !folder)
    throw new Error('context');
  return ({ step, policy }) => {
    let squares = 0;
    for (const { data } of Object.values(policy.weights())) for (const value of data) squares += value * value;
    return { [name]: Math.sqrt(squares), evaluated_step: step };
  };
}
