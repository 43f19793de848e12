/** Devices that can hold tensors and evaluate losses. */

import type { NativeCpuDevice } from '../binding.js';
import { binding } from './binding.js';
import { SdpoError } from './errors.js';
import { failType } from './validate.js';

/** A device of this machine, as `devices()` lists it. */
export type Device = NativeCpuDevice;

/** The devices of this machine that this build can use; the first one is always the CPU. */
export function devices(): Device[] {
  return binding.devices();
}

/** A device name that exists here; an SdpoError `ERR_SDPO_DEVICE` that lists the devices otherwise. */
export function checkDevice(argument: string, value: unknown): string {
  if (typeof value !== 'string') failType(argument, "a device name such as 'cpu' or 'cuda:0'", value);
  if (value === 'cpu') return value;
  const names = devices().map((device) => device.name as string);
  if (!names.includes(value)) {
    throw new SdpoError(
      'ERR_SDPO_DEVICE',
      `Expected ${argument} to be a device of this machine (${names.join(', ')}), received ${JSON.stringify(value)}`,
    );
  }
  return value;
}
