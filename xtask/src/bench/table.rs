//! The results as a table.

use std::fmt::Write;

use super::Row;

/// One line for each result, and one that says how many promises are kept.
pub fn text(rows: &[Row]) -> String {
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
            promise(row)
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let promises = rows.iter().filter_map(|row| row.kept);
    let (kept, broken): (Vec<bool>, Vec<bool>) = promises.partition(|&kept| kept);
    let _ = writeln!(out, "\npromises: {} kept, {} broken", kept.len(), broken.len());
    out
}

fn promise(row: &Row) -> String {
    match (row.promise, row.kept) {
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
        assert!(text(&rows).contains("<= 100\n") && text(&rows).ends_with("1 kept, 0 broken\n"));
        let rows = [row("null_hypercall", vec![1, 101, 101])];
        assert!(text(&rows).contains("<= 100 BROKEN\n") && text(&rows).ends_with("0 kept, 1 broken\n"));
    }
}
