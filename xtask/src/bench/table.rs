//! The results as a table.

use std::fmt::Write;

use super::Row;
use super::drivers::{Figure, Moved};

/// One line for each result, and one that says how many promises are kept.
pub fn text(rows: &[Row], moved: &[Moved], figures: &[Figure]) -> String {
    let name_width = rows.iter().map(|row| row.measurement.name.len()).max().unwrap_or(0);
    let scenario_width = rows.iter().map(|row| row.scenario.len()).max().unwrap_or(0);
    let mut out = String::from("instructions\n\n");
    let _ = writeln!(
        out,
        "{:<4}  {:<scenario_width$}  {:<name_width$}  {:>8}  {:>8}  {:>8}  {:>7}  promise",
        "CPUs", "scenario", "name", "min", "median", "p99", "samples"
    );
    for row in rows {
        let found = &row.measurement;
        let line = format!(
            "{:<4}  {:<scenario_width$}  {:<name_width$}  {:>8}  {:>8}  {:>8}  {:>7}  {}",
            row.cpus,
            row.scenario,
            found.name,
            found.min,
            found.median,
            found.p99,
            found.samples,
            promise(row.promise.map(|most| most.to_string()), row.kept)
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    transfers(&mut out, moved);
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    for Figure { name, value, unit, promise: most, kept } in figures {
        let promise = promise(most.map(|most| format!("{most}")), *kept);
        let _ = writeln!(out, "{}", format!("{name:<width$}  {value:>10.2} {unit:<15}  {promise}").trim_end());
    }
    let promises = rows.iter().map(|row| row.kept).chain(figures.iter().map(|figure| figure.kept)).flatten();
    let (kept, broken): (Vec<bool>, Vec<bool>) = promises.partition(|&kept| kept);
    let _ = writeln!(out, "\npromises: {} kept, {} broken", kept.len(), broken.len());
    out
}

/// What each request or frame costs.
fn transfers(out: &mut String, moved: &[Moved]) {
    let width = moved.iter().map(|one| one.scenario.len()).max().unwrap_or(0);
    let _ = writeln!(
        out,
        "\n{:<width$}  {:>5}  {:>12}  {:>9}  {:>10}  {:>13}  {:>11}",
        "each", "depth", "instructions", "in driver", "hypercalls", "notifications", "grant calls"
    );
    for Moved { scenario, depth, cost } in moved {
        let _ = writeln!(
            out,
            "{scenario:<width$}  {depth:>5}  {:>12.0}  {:>9.0}  {:>10.3}  {:>13.3}  {:>11.3}",
            cost.cpu, cost.driver, cost.hypercalls, cost.notifications, cost.grant_calls
        );
    }
    out.push('\n');
}

fn promise(most: Option<String>, kept: Option<bool>) -> String {
    match (most, kept) {
        (Some(most), Some(true)) => format!("<= {most}"),
        (Some(most), Some(false)) => format!("<= {most} BROKEN"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Measurement;
    use super::*;

    #[test]
    fn a_broken_promise_stands_out() {
        let row = |name, samples| Row::new(1, "alone", Measurement::of(name, samples).unwrap());
        let rows = [row("null_hypercall", vec![99, 100, 500]), row("other", vec![1])];
        assert!(text(&rows, &[], &[]).contains("<= 100\n") && text(&rows, &[], &[]).ends_with("1 kept, 0 broken\n"));
        let rows = [row("null_hypercall", vec![1, 101, 101])];
        assert!(
            text(&rows, &[], &[]).contains("<= 100 BROKEN\n") && text(&rows, &[], &[]).ends_with("0 kept, 1 broken\n")
        );
    }
}
