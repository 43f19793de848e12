/** Devices that can hold tensors and evaluate losses. */

import type { NativeCpuDevice, NativeCudaDevice, NativeCudaSupport } from '../../binding.js';
import { binding } from '../native/binding.js';
import { CudaError, SdpoError } from '../native/errors.js';
import { failType } from '../native/validate.js';

binding.onDeviceError((failure) =>
  failure.cudaCode === '' ? new SdpoError('ERR_SDPO_OUT_OF_MEMORY', failure.message) : new CudaError(failure),
);

/** A device of this machine, as `devices()` lists it; `type` tells the two kinds apart. */
export type Device = NativeCpuDevice | NativeCudaDevice;

/** The devices of this machine that this build can use; the first one is always the CPU. */
export function devices(): [NativeCpuDevice, ...NativeCudaDevice[]] {
  return binding.devices();
}

/** Whether this build can use CUDA, and why this machine cannot where it cannot. */
export function cudaSupport(): NativeCudaSupport {
  return binding.cuda();
}

/** Names that were found: devices do not come or go while a process runs, and asking a driver takes time. */
const found = new Set<string>(['cpu']);

/** A device name that exists here; an SdpoError `ERR_SDPO_DEVICE` that lists the devices, and says why CUDA is not used, otherwise. */
export function checkDevice(argument: string, value: unknown): string {
  if (typeof value !== 'string') failType(argument, "a device name such as 'cpu' or 'cuda:0'", value);
  if (found.has(value)) return value;
  const names = devices().map((device) => device.name as string);
  for (const name of names) found.add(name);
  if (found.has(value)) return value;
  const { reason } = cudaSupport();
  const why = value.startsWith('cuda') && reason !== null ? `: ${reason}` : '';
  throw new SdpoError(
    'ERR_SDPO_DEVICE',
    `Expected ${argument} to be a device of this machine (${names.join(', ')}), received ${JSON.stringify(value)}${why}`,
  );
}

/** A CUDA device that exists here. */
export function checkCudaDevice(argument: string, value: unknown): string {
  if (value === 'cpu') {
    throw new SdpoError('ERR_SDPO_DEVICE', `Expected ${argument} to be a CUDA device such as 'cuda:0', received "cpu"`);
  }
  return checkDevice(argument, value);
}

/** A device as the addon counts: 0 is the host, n + 1 is cuda:n. */
export function locationOf(device: string): number {
  return device === 'cpu' ? 0 : Number(device.slice('cuda:'.length)) + 1;
}
