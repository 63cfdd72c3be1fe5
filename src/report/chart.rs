//! The drawings, as SVG: the time line of a cluster, and bars of its last backups.
//!
//! Positions across are shares of the width and everything else is in points, so that the same drawing fits a wide
//! screen and a telephone, with letters that can be read on both. Attributes only, no `style`: the page's policy forbids it.

use maud::{Markup, html};

use super::drawing::{Drawing, Lane, Mark, Shape};

/// Points from one lane to the next.
const LANE: usize = 62;

/// Where things lie within a lane.
const NAME: usize = 14;
const BAR: usize = 24;
const THICK: usize = 16;
const MIDDLE: usize = BAR + THICK / 2;
const COUNT: usize = 54;

/// Below the last lane.
const AXIS: usize = 26;

/// How high the bars of a chart can be, and what is above and below them.
const HIGH: f64 = 96.0;
const ABOVE: f64 = 20.0;
const BELOW: f64 = 18.0;

/// So many places for bars there are at least: a single bar is not to be as wide as the page.
const PLACES: usize = 12;

fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

/// The time line. `title` is what it shows, for who cannot see it.
pub(super) fn time_line(drawing: &Drawing, title: &str) -> Markup {
    let height = drawing.lanes.len() * LANE;
    html! {
        svg.timeline role="img" aria-label=(title) width="100%" height=(height + AXIS) {
            title { (title) }
            @for tick in &drawing.ticks {
                line.grid x1=(percent(tick.at)) x2=(percent(tick.at)) y1="18" y2=(height + 4) {}
            }
            @for (place, lane) in drawing.lanes.iter().enumerate() {
                @if let Some((parent, at)) = lane.fork {
                    line.fork x1=(percent(at)) x2=(percent(at)) y1=(parent * LANE + MIDDLE) y2=(place * LANE + MIDDLE) {}
                }
            }
            @for (place, lane) in drawing.lanes.iter().enumerate() { (self::lane(lane, place * LANE)) }
            line.axis x1="0" x2="100%" y1=(height + 4) y2=(height + 4) {}
            @for (index, tick) in drawing.ticks.iter().enumerate() {
                text.tick.minor[index % 3 != 1] x=(percent(tick.at)) y=(height + 20) text-anchor=(anchor(tick.at)) {
                    (tick.label)
                }
            }
        }
    }
}

fn anchor(at: f64) -> &'static str {
    if at < 0.1 {
        "start"
    } else if at > 0.9 {
        "end"
    } else {
        "middle"
    }
}

fn lane(lane: &Lane, top: usize) -> Markup {
    let bar = |class: &str, from: f64, to: f64, title: &str| {
        html! {
            rect class=(class) x=(percent(from)) width=(percent((to - from).max(0.002))) y=(top + BAR) height=(THICK) rx="3" {
                title { (title) }
            }
        }
    };
    html! {
        text.lane x="0" y=(top + NAME) { "timeline " (lane.timeline.0) @if lane.latest { " (latest)" } }
        line.track x1="0" x2="100%" y1=(top + MIDDLE) y2=(top + MIDDLE) {}
        @for hole in &lane.holes { (bar("hole", hole.from, hole.to, &hole.title)) }
        @for window in &lane.windows { (bar("window", window.from, window.to, &window.title)) }
        @for gap in &lane.gaps {
            svg.mark x=(percent(gap.at)) y=(top + MIDDLE) overflow="visible" {
                title { (gap.title) }
                path.gap d="M-3 -14 L4 -5 L-4 5 L3 14" {}
            }
        }
        @for mark in &lane.backups { (backup(mark, top)) }
    }
}

fn backup(mark: &Mark, top: usize) -> Markup {
    html! {
        svg.mark x=(percent(mark.at)) y=(top + MIDDLE) overflow="visible" { title { (mark.title) } (shape(mark.shape)) }
        @if mark.count > 1 {
            text.count x=(percent(mark.at)) y=(top + COUNT) text-anchor=(anchor(mark.at)) { (mark.count) }
        }
    }
}

/// A shape of its own for each state, for who cannot tell colours apart.
pub(super) fn shape(shape: Shape) -> Markup {
    html! {
        @match shape {
            Shape::Good => circle.good r="5" {},
            Shape::Kept => path.kept d="M0 -8 L8 0 L0 8 L-8 0 Z" {},
            Shape::Incomplete => circle.incomplete r="5" {},
            Shape::Damaged => path.damaged d="M0 -8 L8 6 L-8 6 Z" {},
            Shape::Lost => path.lost d="M-5 -5 L5 5 M5 -5 L-5 5" {},
        }
    }
}

/// One bar of a chart.
pub(super) struct Value {
    pub value: Option<f64>,
    /// What it is, for who points at it.
    pub title: String,
}

/// Bars side by side, oldest first.
pub(super) fn bars(title: &str, values: &[Value], top: &str, (first, last): (&str, &str)) -> Markup {
    let most = values.iter().filter_map(|value| value.value).fold(0.0, f64::max);
    let places = values.len().max(PLACES) as f64;
    let floor = ABOVE + HIGH;
    html! {
        svg.bars role="img" aria-label={ (title) ", the highest " (top) } width="100%" height=(floor + BELOW) {
            line.grid x1="0" x2="100%" y1=(ABOVE) y2=(ABOVE) {}
            text.tick x="0" y=(ABOVE - 6.0) { (top) }
            @for (index, value) in values.iter().enumerate() {
                @if let Some(height) = value.value.filter(|_| most > 0.0).map(|value| (value / most * HIGH).max(1.0)) {
                    rect.bar x=(percent((index as f64 + 0.1) / places)) width=(percent(0.8 / places))
                        y=(format!("{:.1}", floor - height)) height=(format!("{height:.1}")) {
                        title { (value.title) }
                    }
                }
            }
            line.axis x1="0" x2="100%" y1=(floor) y2=(floor) {}
            text.tick x="0" y=(floor + 14.0) { (first) }
            // A single date does for a few bars.
            @if values.len() >= PLACES / 2 {
                text.tick x=(percent(values.len() as f64 / places)) y=(floor + 14.0) text-anchor="end" { (last) }
            }
        }
    }
}
