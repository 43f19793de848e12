/** What this installation of the package is and can do, for a person or a bug report: versions, the binary, the processor, CUDA and devices. */

import { readFileSync } from 'node:fs';
import { binaryFile, libc } from '../native/binding.js';
import { cudaSupport, type Device, devices } from '../tensor/device.js';

export interface Diagnosis {
  package: string;
  node: string;
  system: string;
  libc: string;
  /** The addon that was loaded. */
  binary: string;
  cpu: { instructionSet: string; threads: number };
  cuda: {
    built: boolean;
    /** Whether `devices()` has a CUDA device. */
    used: boolean;
    runtimeVersion: string | null;
    /** The newest CUDA version the driver supports; null without a driver. */
    driverVersion: string | null;
    /** The driver's own version, where its kernel module is loaded. */
    kernelDriver: string | null;
    /** The oldest driver branch that this build works with. */
    minimumDriver: string | null;
    /** Why CUDA, or a device of it, is not used; null where there is nothing to say. */
    reason: string | null;
  };
  devices: Device[];
}

/** Oldest driver branch for a major version of the CUDA runtime (NVIDIA, "CUDA Compatibility", minor version compatibility). */
const MINIMUM_DRIVERS: { readonly [major: string]: string } = { 11: '450', 12: '525', 13: '580' };

export function packageVersion(): string {
  const file = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

export function diagnose(): Diagnosis {
  const found = devices();
  const support = cudaSupport();
  const [cpu] = found;
  return {
    package: packageVersion(),
    node: process.versions.node,
    system: `${process.platform}-${process.arch}`,
    libc: libc(),
    binary: binaryFile,
    cpu: { instructionSet: cpu.instructionSet, threads: cpu.threads },
    cuda: {
      built: support.built,
      used: found.length > 1,
      runtimeVersion: support.runtimeVersion,
      driverVersion: support.driverVersion,
      kernelDriver: kernelDriver(),
      minimumDriver: MINIMUM_DRIVERS[support.runtimeVersion?.split('.')[0] ?? ''] ?? null,
      reason: support.reason,
    },
    devices: found,
  };
}

function kernelDriver(): string | null {
  try {
    const text = readFileSync('/proc/driver/nvidia/version', 'utf8');
    return /Kernel Module.*?\s(\d+(?:\.\d+)+)\s/.exec(text)?.[1] ?? null;
  } catch {
    return null;
  }
}

/** The diagnosis as lines for a terminal. */
export function describeDiagnosis(found: Diagnosis): string {
  const { cuda } = found;
  const lines: [string, string][] = [
    ['sdpo', found.package],
    ['node', found.node],
    ['system', `${found.system}, ${found.libc}`],
    ['binary', found.binary],
    ['cpu', `${found.cpu.instructionSet}, ${found.cpu.threads} threads`],
    ['built with CUDA', cuda.built ? `yes, runtime ${cuda.runtimeVersion}` : 'no'],
  ];
  if (cuda.built) {
    const kernel = cuda.kernelDriver === null ? '' : ` (driver ${cuda.kernelDriver})`;
    lines.push(['driver', cuda.driverVersion === null ? 'none' : `for CUDA ${cuda.driverVersion}${kernel}`]);
    lines.push(['minimum driver', cuda.minimumDriver ?? 'not known']);
  }
  lines.push(['CUDA is used', cuda.used ? 'yes' : `no: ${cuda.reason ?? 'no device was found'}`]);
  if (cuda.used && cuda.reason !== null) lines.push(['but', cuda.reason]);
  for (const device of found.devices) {
    const text =
      device.type === 'cpu'
        ? 'this processor'
        : `${device.model}, compute capability ${device.computeCapability}, ${(device.totalMemory / 2 ** 30).toFixed(1)} GiB, ${device.multiprocessors} multiprocessors`;
    lines.push([device.name, text]);
  }
  const width = Math.max(...lines.map(([label]) => label.length));
  return lines.map(([label, text]) => `${label.padEnd(width)}  ${text}`).join('\n');
}
