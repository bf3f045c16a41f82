//! The report as one page without scripts and without anything from elsewhere.

use std::fmt::Write;

use super::compare::Finding;
use super::latency::{Latency, Series};
use super::report::{Coverage, Report, Verdict};

/// The page. Everything in it that was not written here is escaped.
pub fn page(report: &Report) -> String {
    let mut body = String::new();
    let colour = if report.verdict() == Verdict::Same { "good" } else { "bad" };
    let _ = writeln!(body, "<h1 class=\"{colour}\">{}</h1>", escape(&report.headline()));
    let facts = [
        ("proxy", report.proxy.clone()),
        ("cover", report.cover.clone()),
        ("name", report.name.clone()),
        ("user", report.user.clone()),
        ("seed", report.seed.to_string()),
    ];
    body += "<table>\n";
    for (name, value) in facts {
        let _ = writeln!(body, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value));
    }
    body += "</table>\n";
    body += &classes(report);
    body += &findings(report, "Differences, the worst first", &report.differences);
    body += &findings(report, "Known", &report.known);
    for latency in &report.latency {
        body += &histograms(latency);
    }
    body += &measured(report);
    body += &findings(report, "Varied, as the cover or this machine does by itself", &report.noise);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<title>vizard audit</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

const STYLE: &str = "body{font:16px/1.4 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}\
    th{text-align:left;padding-right:2em;font-weight:normal;color:#555}pre{white-space:pre-wrap;\
    overflow-wrap:anywhere;background:#f4f4f4;padding:.6em}.good{color:#161}.bad{color:#a11}svg{display:block}";

fn classes(report: &Report) -> String {
    let mut out = String::from("<h2>Probes</h2>\n<table>\n");
    for Coverage { class, probes, means, missing, .. } in &report.coverage {
        let found = report.differences.iter().filter(|finding| finding.class == *class).count();
        let colour = if found == 0 { "good" } else { "bad" };
        let (label, means) = (class.label(), means.iter().map(|means| means.label()).collect::<Vec<_>>().join("; "));
        let _ = write!(out, "<tr><th>{label}</th><td>{probes}</td><td class=\"{colour}\">{found} different</td>");
        let not: String = missing.iter().map(|missing| format!("<br/>not {}", escape(missing))).collect();
        let _ = writeln!(out, "<td>{means}{not}</td></tr>");
    }
    out + "</table>\n"
}

fn findings(report: &Report, title: &str, findings: &[Finding]) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let mut out = format!("<h2>{title}</h2>\n");
    for finding in findings {
        let _ = writeln!(
            out,
            "<h3>{}</h3>\n<p>{}, {}</p>\n<pre>{}</pre>\n<p><code>{}</code></p>",
            escape(&finding.probe),
            finding.class.label(),
            finding.needs.label(),
            escape(&finding.text),
            escape(&report.repeat(&finding.probe))
        );
    }
    out
}

fn measured(report: &Report) -> String {
    if report.measured.is_empty() {
        return String::new();
    }
    let mut out = String::from("<h2>Measured and in order</h2>\n<table>\n");
    for (name, found) in &report.measured {
        let _ = writeln!(out, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(found));
    }
    out + "</table>\n"
}

/// One histogram below the other, all with the same scale.
fn histograms(latency: &Latency) -> String {
    let mut all: Vec<f64> = latency.series.iter().flat_map(|series| series.millis.iter().copied()).collect();
    all.sort_by(f64::total_cmp);
    // The slowest few would push everything else into one corner.
    let (Some(least), Some(most)) = (all.first(), all.get(all.len() * 98 / 100)) else { return String::new() };
    let scale = (*least, (most - least).max(0.001));
    let mut out = format!("<h2>{}</h2>\n<p>{}</p>\n", escape(&latency.name), escape(&latency.text()));
    let _ = writeln!(out, "<p>{:.2} to {:.2} ms; what took longer is in the last bar.</p>", scale.0, scale.0 + scale.1);
    for series in &latency.series {
        out += &histogram(series, scale);
    }
    out
}

const BARS: usize = 60;
const HEIGHT: f64 = 60.0;

fn histogram(series: &Series, (least, width): (f64, f64)) -> String {
    let mut counts = [0_usize; BARS];
    for value in &series.millis {
        counts[(((value - least) / width * BARS as f64) as usize).min(BARS - 1)] += 1;
    }
    let highest = counts.iter().copied().max().unwrap_or(0).max(1);
    let mut out = format!(
        "<svg role=\"img\" width=\"620\" height=\"90\" viewBox=\"0 0 620 90\"><title>{name}</title>\
         <text x=\"0\" y=\"14\" font-size=\"13\">{name}</text>",
        name = escape(series.name)
    );
    for (at, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
        let height = HEIGHT * count as f64 / highest as f64;
        let (x, y) = (at * 10, 84.0 - height);
        let _ = write!(out, "<rect x=\"{x}\" y=\"{y:.1}\" width=\"9\" height=\"{height:.1}\" fill=\"#47a\"/>");
    }
    out + "<line x1=\"0\" y1=\"84.5\" x2=\"600\" y2=\"84.5\" stroke=\"#888\"/></svg>\n"
}

/// Text that cannot be taken for markup, and without the characters that a page may not have.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            letter if letter.is_control() && letter != '\n' => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::probe::{Class, Needs};
    use crate::audit::report::tests::{finding, report};

    #[test]
    fn what_others_wrote_is_escaped() {
        let text = "<script>alert('x')</script> & \"\u{0}\"";
        let page = page(&report(vec![finding(text, Class::Names, Needs::Watching)]));
        assert!(!page.contains("<script") && !page.contains('\u{0}') && !page.contains("<site>"));
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;\u{fffd}&quot;"));
        assert!(page.contains("proxy &amp; nothing") && page.contains("a &amp; b"));
    }

    #[test]
    fn every_sample_is_in_a_histogram() {
        let page = page(&report(Vec::new()));
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(page.matches("<rect").count() >= 8, "{page}");
        assert!(page.contains("None of 160 probes"));
    }
}
