//! Graphs as SVG, drawn from numbers. Colours come from the style sheet.

use std::fmt::Write;

use maud::{Markup, html};

/// Seconds between two values.
const EVERY: usize = super::super::samples::EVERY.as_secs() as usize;

/// Width and height of a graph, and the room for the line.
const WIDE: f64 = 600.0;
const HIGH: f64 = 120.0;
const TOP: f64 = 8.0;

/// One line of a graph.
pub struct Line<'a> {
    /// Its class in the style sheet: `a` or `b`.
    pub class: &'a str,
    /// Label in the legend.
    pub label: &'a str,
    /// Values, oldest first, evenly spaced.
    pub values: &'a [f64],
}

/// A graph of these lines from zero to the largest value, which `unit` puts into words. `slots` is how many values fit;
/// fewer stand at the right end.
pub fn graph(title: &str, lines: &[Line<'_>], slots: usize, unit: fn(f64) -> String) -> Markup {
    let largest = lines.iter().flat_map(|line| line.values).copied().fold(0.0, f64::max);
    let last = |line: &Line<'_>| unit(line.values.last().copied().unwrap_or_default());
    html! {
        figure class="graph" {
            figcaption {
                strong { (title) }
                @for line in lines {
                    span class={ "key " (line.class) } { (line.label) " " b { (last(line)) } }
                }
            }
            svg viewBox="0 0 600 120" preserveAspectRatio="none" role="img" aria-label=(title) {
                line class="grid" x1="0" x2="600" y1="8" y2="8" {}
                line class="grid" x1="0" x2="600" y1="64" y2="64" {}
                line class="grid" x1="0" x2="600" y1="119.5" y2="119.5" {}
                @for line in lines.iter().filter(|line| line.values.len() > 1) {
                    path class={ "area " (line.class) } d=(path(line.values, largest, slots, true)) {}
                    path class={ "line " (line.class) } d=(path(line.values, largest, slots, false)) {}
                }
            }
            div class="axis" { span { (slots * EVERY / 60) " min ago" } span { "most: " (unit(largest)) } span { "now" } }
        }
    }
}

fn path(values: &[f64], largest: f64, slots: usize, closed: bool) -> String {
    let step = WIDE / (slots.max(2) - 1) as f64;
    let start = WIDE - step * (values.len() - 1) as f64;
    let height = |value: f64| if largest > 0.0 { HIGH - value / largest * (HIGH - TOP) } else { HIGH };
    let mut path = String::new();
    for (index, value) in values.iter().enumerate() {
        let letter = if index == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{letter}{:.1} {:.1}", start + step * index as f64, height(*value));
    }
    if closed {
        let _ = write!(path, "L{WIDE} {HIGH}L{start:.1} {HIGH}Z");
    }
    path
}

/// A bar that is this part full.
pub fn bar(part: f64, class: &str) -> Markup {
    let width = format!("{:.1}", part.clamp(0.0, 1.0) * 100.0);
    html! {
        svg class={ "bar " (class) } viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
            rect class="back" width="100" height="8" {}
            rect class="full" width=(width) height="8" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_the_right_and_reach_the_top_with_the_largest() {
        assert_eq!(path(&[0.0, 10.0], 10.0, 3, false), "M300.0 120.0L600.0 8.0");
        assert_eq!(path(&[0.0, 0.0], 0.0, 2, false), "M0.0 120.0L600.0 120.0");
        assert!(path(&[1.0, 1.0], 1.0, 2, true).ends_with("L600 120L0.0 120Z"));
    }

    #[test]
    fn bars_stay_within_their_bounds() {
        for (part, width) in [(-1.0, "0.0"), (0.25, "25.0"), (7.0, "100.0")] {
            let drawn = bar(part, "").into_string();
            assert!(drawn.contains(&format!("class=\"full\" width=\"{width}\"")), "{drawn}");
        }
    }

    #[test]
    fn what_is_written_is_escaped() {
        let drawn = graph("<script>", &[], 10, |value| value.to_string()).into_string();
        assert!(!drawn.contains("<script>"));
    }
}
