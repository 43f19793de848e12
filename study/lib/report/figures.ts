/** What the figures of a report share: series with their styles, lines with their intervals, and words for those who do not see them. */

import { baselineFamily, familyOf } from '../answers.js';
import { conditionText } from '../cells.js';
import { titleOf } from '../focus.js';
import type { StudyGroup, StudyResults } from '../types.js';
import { type Panel, type Spec, type Style, styleAt } from './draw.js';
import { formatNumber, oneLine } from './format.js';

/** Panels that share a legend. */
export interface Figure {
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  readonly legend: readonly { readonly title: string; readonly style: Style }[];
  readonly panels: readonly Panel[];
  /** Panels side by side belong together. */
  readonly pairs?: boolean;
}

/** What a panel is drawn from, before the scale that it shares with the others of its figure is known. */
export interface Draft<P> {
  readonly title: string;
  readonly points: readonly P[];
}

export interface Series {
  readonly title: string;
  readonly style: Style;
}

/** A point of a line with its interval. */
export interface Point {
  series: string;
  x: number;
  y: number;
  low: number;
  high: number;
}

/** Styles by arm, the same in all figures of a report; the arms of the first groups get the colours that stand out most. */
export function armStyles({ config }: StudyResults): (arm: string) => Style {
  const arms = [...new Set([...config.groups.flatMap((group) => group.arms), ...Object.keys(config.arms)])];
  return (arm) => styleAt(arms.indexOf(arm));
}

/** Channels that give every series its style. */
export function seriesEncoding(
  series: readonly Series[],
  channels: readonly ('color' | 'shape' | 'strokeDash')[],
): Spec {
  const domain = series.map(({ title }) => title);
  const ranges = {
    color: series.map(({ style }) => style.colour),
    shape: series.map(({ style }) => style.shape),
    strokeDash: series.map(({ style }) => style.dash),
  };
  return Object.fromEntries(
    channels.map((channel) => [
      channel,
      { field: 'series', type: 'nominal', scale: { domain, range: ranges[channel] }, legend: null },
    ]),
  );
}

/** What a line plot says, for those who do not see it. */
export function describeLines(
  what: string,
  points: readonly { series: string; x: number; y: number }[],
  x: string,
): string {
  const names = [...new Set(points.map(({ series }) => series))];
  const parts = names.map((name) => {
    const line = points.filter(({ series, y }) => series === name && Number.isFinite(y));
    const [first, last] = [line[0], line.at(-1)];
    if (first === undefined || last === undefined) return `${name}: none`;
    const at = (point: { x: number; y: number }) =>
      `${formatNumber(point.y)} at ${x} ${Number(point.x.toPrecision(3))}`;
    return line.length === 1 ? `${name}: ${at(first)}` : `${name}: ${at(first)}, ${at(last)}`;
  });
  return `${what}. ${parts.join('; ')}.`;
}

/** A series of a group: an arm under a condition. */
interface GroupSeries extends Series {
  readonly arm: string;
  readonly condition: string;
  /** Whether the group ran it; otherwise it stands for comparison. */
  readonly own: boolean;
}

/** The series of a group: its arms, and what they are to be compared with where the group has it not. */
export function seriesOfGroup(results: StudyResults, group: StudyGroup): GroupSeries[] {
  const { config } = results;
  const style = armStyles(results);
  const condition = conditionText(group.settings ?? {});
  const baseline = Object.keys(config.arms).find((arm) => familyOf(config, arm) === baselineFamily(config))!;
  const own = group.arms.map((arm) => {
    return { arm, condition, own: true, title: titleOf(config, arm, condition), style: style(arm) };
  });
  // Under a condition the arms are compared with themselves without it.
  const compared = condition !== '' ? group.arms : group.arms.includes(baseline) ? [] : [baseline];
  const others = compared.map((arm) => {
    const plain = style(arm);
    const dash = condition === '' ? plain.dash : [2, 3];
    return { arm, condition: '', own: false, title: titleOf(config, arm), style: { ...plain, dash } };
  });
  return [...own, ...others];
}

/** The range of these numbers, NaN apart, with a margin; panels that share it can be compared by eye. */
export function domainOf(values: readonly number[]): [number, number] {
  const finite = values.filter(Number.isFinite);
  if (finite.length === 0) return [0, 1];
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const margin = high > low ? 0.05 * (high - low) : 0.05 * (Math.abs(high) || 1);
  return [low - margin, high + margin];
}

/** The range of the lines of several panels and of their intervals. */
export function sharedDomain(drafts: readonly Draft<Point>[]): [number, number] {
  return domainOf(drafts.flatMap(({ points }) => points.flatMap(({ y, low, high }) => [y, low, high])));
}

interface LineOptions {
  readonly series: readonly Series[];
  /** The horizontal axis. */
  readonly x: Spec;
  /** Title of the vertical axis, and its range where the panel shares one. */
  readonly y: string;
  readonly domain?: readonly [number, number];
  readonly intervals: 'bars' | 'band';
  /** A level to compare with. */
  readonly level?: number;
}

/** Lines with points, and intervals as bars or as bands. */
export function linesSpec(points: readonly Point[], { series, x, y, domain, intervals, level }: LineOptions): Spec {
  const scale = domain === undefined ? { zero: false } : { domain, nice: false };
  const position = { x: { field: 'x', ...x }, y: { field: 'y', type: 'quantitative', title: oneLine(y), scale } };
  const bounds = { x: position.x, y: { ...position.y, field: 'low' }, y2: { field: 'high' } };
  const spread = points.filter(({ low }) => Number.isFinite(low));
  const mark =
    intervals === 'bars'
      ? { type: 'rule', strokeWidth: 1.5, opacity: 0.75 }
      : { type: 'area', opacity: 0.14, line: false };
  const count = new Set(points.map((point) => point.series)).size;
  const alone = points.length === count;
  // Where points touch, markers hide the line that they belong to.
  const dense = points.length > MAX_MARKERS * count;
  return {
    data: { values: points.filter((point) => Number.isFinite(point.y)) },
    layer: [
      ...(level === undefined ? [] : [levelRule(level, position.y)]),
      { data: { values: spread }, mark, encoding: { ...bounds, ...seriesEncoding(series, ['color']) } },
      ...(alone
        ? []
        : [{ mark: 'line', encoding: { ...position, ...seriesEncoding(series, ['color', 'strokeDash']) } }]),
      ...(dense ? [] : [{ mark: 'point', encoding: { ...position, ...seriesEncoding(series, ['color', 'shape']) } }]),
    ],
  };
}

/** Points of a line up to which each has its marker. */
const MAX_MARKERS = 40;

export const LEVEL_STYLE: Style = { colour: '#777777', dash: [4, 4], shape: '' };

function levelRule(level: number, y: Spec): Spec {
  const mark = { type: 'rule', color: LEVEL_STYLE.colour, strokeDash: LEVEL_STYLE.dash };
  return { data: { values: [{ y: level }] }, mark, encoding: { y } };
}

export function slug(text: string): string {
  return text.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-');
}
