//! Plots, as SVG.
//!
//! Owns: their look. Must never: need a font of this system: text is left to whoever shows the file.

use std::borrow::Borrow;
use std::path::Path;

use plotters::prelude::*;
use synod_bench::Second;

use crate::summary::{Row, closed, scaling};
use crate::systems::System;
use crate::{PeersError, Result};

const SIZE: (u32, u32) = (880, 520);

fn colour(system: System) -> RGBColor {
    match system {
        System::Synod => RGBColor(0x0b, 0x6e, 0x4f),
        System::Etcd => RGBColor(0x1f, 0x5f, 0xbf),
        System::Nats => RGBColor(0x8a, 0x8a, 0x8a),
        System::Redis => RGBColor(0xc0, 0x39, 0x2b),
    }
}

/// A line of a plot.
struct Line {
    name: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
    /// What stands beside each point.
    marks: Vec<String>,
}

/// Throughput against p99 and percentile curves; returns the files' names.
///
/// # Errors
/// A file cannot be written.
pub fn draw(rows: &[Row], out: &Path) -> Result<Vec<(&'static str, String)>> {
    let mut drawn = Vec::new();
    for work in ["put", "get"] {
        let lines = by_system(rows, |row| {
            let plain =
                row.cell.work == work && closed(&row.cell) && row.cell.shards.is_none() && row.cell.value_bytes == 256;
            plain.then_some(()).and_then(|()| Some(vec![(row.rate?.median, row.p99_us?.median / 1e3)]))
        });
        let title = format!("{work}, 256 B: throughput against p99, by number of clients");
        let file = format!("{work}-throughput-p99.svg");
        if lines.iter().any(|line| line.points.len() > 1) {
            let axes =
                Axes { title: &title, x: "operations a second", y: "p99, ms", log_x: true, nines: false, marked: true };
            plot(&out.join(&file), &axes, &lines)?;
            drawn.push(("Throughput against p99", file));
        }
    }
    for (label, name, file) in [
        ("put, 64 clients, closed loop", "put, 64 clients".to_owned(), "put-percentiles-closed.svg"),
        ("put, open loop at 50 %", "put, 64 clients, open loop at 50 %".to_owned(), "put-percentiles-50.svg"),
        ("put, open loop at 90 %", "put, 64 clients, open loop at 90 %".to_owned(), "put-percentiles-90.svg"),
    ] {
        let lines = by_system(rows, |row| {
            let nines = |(share, us): &(f64, u64)| (-(1.0 - share).max(1e-9).log10(), (*us).max(1) as f64 / 1e3);
            (row.name == name).then(|| row.curve.iter().map(nines).collect())
        });
        if lines.iter().any(|line| !line.points.is_empty()) {
            let title = format!("{label}: latency by percentile");
            let axes =
                Axes { title: &title, x: "percentile", y: "latency, ms", log_x: false, nines: true, marked: false };
            plot(&out.join(file), &axes, &lines)?;
            drawn.push(("Latency by percentile", file.to_owned()));
        }
    }
    let lines = by_system(&scaling(rows), |row| Some(vec![(f64::from(row.cell.shards?), row.rate?.median / 1e3)]));
    if lines.iter().any(|line| line.points.len() > 1) {
        let title = "put at full load: rate by number of shards";
        let axes =
            Axes { title, x: "shards", y: "thousand operations a second", log_x: true, nines: false, marked: false };
        plot(&out.join("shards.svg"), &axes, &lines)?;
        drawn.push(("Scaling with shards", "shards.svg".to_owned()));
    }
    Ok(drawn)
}

fn by_system<R: Borrow<Row>>(rows: &[R], points_of: impl Fn(&Row) -> Option<Vec<(f64, f64)>>) -> Vec<Line> {
    let line = |system: System| {
        let (mut points, mut marks) = (Vec::new(), Vec::new());
        for row in rows.iter().map(Borrow::borrow).filter(|row| row.system == system) {
            if let Some(of_row) = points_of(row) {
                points.extend(of_row);
                marks.push(row.cell.clients.to_string());
            }
        }
        Line { name: system.label().to_owned(), colour: colour(system), points, marks }
    };
    System::ALL.into_iter().map(line).filter(|line| !line.points.is_empty()).collect()
}

struct Axes<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
    log_x: bool,
    /// x counts nines: 1 is 90 %, 2 is 99 %.
    nines: bool,
    /// Whether each point says its number of clients.
    marked: bool,
}

/// Every plot has a logarithmic y; a logarithmic x is drawn as the exponent and labelled as the number.
fn plot(path: &Path, axes: &Axes<'_>, lines: &[Line]) -> Result<()> {
    let failed =
        |error: &dyn std::fmt::Display| PeersError::Io { what: path.display().to_string(), why: error.to_string() };
    let x_of = |x: f64| if axes.log_x { x.max(1e-9).log10() } else { x };
    let all = || lines.iter().flat_map(|line| &line.points);
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        let margin = ((high - low) * 0.05).max(0.02);
        (low - margin)..(high + margin)
    };
    let x = bounds(&mut all().map(|p| x_of(p.0)));
    let y = bounds(&mut all().map(|p| p.1.max(1e-6).log10()));
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|e| failed(&e))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(axes.title, ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(x, y)
        .map_err(|e| failed(&e))?;
    let number = |exponent: &f64| short(10f64.powf(*exponent));
    let nines = |n: &f64| format!("{}", ((1.0 - 10f64.powf(-*n)) * 1e7).round() / 1e5) + " %";
    let x_label = |v: &f64| {
        if axes.nines {
            nines(v)
        } else if axes.log_x {
            number(v)
        } else {
            format!("{v}")
        }
    };
    chart
        .configure_mesh()
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_labels(8)
        .y_labels(8)
        .x_label_formatter(&x_label)
        .y_label_formatter(&number)
        .light_line_style(TRANSPARENT)
        .draw()
        .map_err(|e| failed(&e))?;
    for line in lines {
        let points: Vec<(f64, f64)> = line.points.iter().map(|p| (x_of(p.0), p.1.max(1e-6).log10())).collect();
        let style = line.colour.stroke_width(2);
        let series = LineSeries::new(points.clone(), style);
        chart
            .draw_series(series)
            .map_err(|e| failed(&e))?
            .label(line.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        if points.len() < 12 {
            let dots = points.iter().map(|p| Circle::new(*p, 4, line.colour.filled()));
            chart.draw_series(dots).map_err(|e| failed(&e))?;
            let style = ("sans-serif", 13).into_font().color(&line.colour);
            let beside = points.iter().zip(&line.marks).filter(|_| axes.marked);
            let text = beside.map(|(p, mark)| EmptyElement::at(*p) + Text::new(mark.clone(), (7, -13), style.clone()));
            chart.draw_series(text).map_err(|e| failed(&e))?;
        }
    }
    let labels = chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .draw();
    labels.map_err(|e| failed(&e))?;
    area.present().map_err(|e| failed(&e))
}

/// A run over time: operations a second above, latencies in milliseconds below, both with marks at what happened.
///
/// # Errors
/// The file cannot be written.
pub fn timeline(path: &Path, title: &str, seconds: &[Second], marks: &[(f64, String)]) -> Result<()> {
    let failed =
        |error: &dyn std::fmt::Display| PeersError::Io { what: path.display().to_string(), why: error.to_string() };
    let end = seconds.len().max(1) as f64;
    let most = seconds.iter().map(|s| s.ops).max().unwrap_or(1).max(1) as f64;
    let slowest = seconds.iter().map(|s| s.max_us).max().unwrap_or(1).max(2_000) as f64 / 1e3;
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|e| failed(&e))?;
    let area = area.titled(title, ("sans-serif", 20)).map_err(|e| failed(&e))?;
    let (above, below) = area.split_vertically(SIZE.1 * 2 / 5);
    let (green, blue, grey) = (colour(System::Synod), colour(System::Etcd), RGBColor(0xa0, 0xa0, 0xa0));
    let number = |value: &f64| thousands(*value);
    let exponent = |value: &f64| short(10f64.powf(*value));
    let point = |s: &Second, us: u64| (s.second as f64 + 0.5, (us.max(100) as f64 / 1e3).log10());
    let rate = seconds.iter().map(|s| (s.second as f64 + 0.5, s.ops as f64)).collect();
    let p99 = seconds.iter().map(|s| point(s, s.p99_us)).collect();
    let max = seconds.iter().map(|s| point(s, s.max_us)).collect();
    type Lines<'a> = Vec<(&'a str, RGBColor, Vec<(f64, f64)>)>;
    type Label<'a> = &'a dyn Fn(&f64) -> String;
    let panels: [(_, _, _, Label<'_>, Lines<'_>); 2] = [
        (above, "puts a second", 0.0..most * 1.1, &number, vec![("rate", green, rate)]),
        (below, "ms", -1.0..slowest.log10() + 0.2, &exponent, vec![("slowest", blue, max), ("p99", green, p99)]),
    ];
    for (area, unit, range, label, lines) in panels {
        let (low, high) = (range.start, range.end);
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..end, range)
            .map_err(|e| failed(&e))?;
        let mut mesh = chart.configure_mesh();
        let mesh = mesh.x_desc("s").y_desc(unit).y_labels(6).y_label_formatter(&label).light_line_style(TRANSPARENT);
        mesh.draw().map_err(|e| failed(&e))?;
        for (n, (at, what)) in marks.iter().enumerate() {
            let bar = PathElement::new([(*at, low), (*at, high)], grey.stroke_width(1));
            chart.draw_series([bar]).map_err(|e| failed(&e))?;
            let y = high - (high - low) * (0.04 + 0.07 * (n % 4) as f64);
            let text = Text::new(what.clone(), (*at, y), ("sans-serif", 11).into_font().color(&grey));
            chart.draw_series([text]).map_err(|e| failed(&e))?;
        }
        for (name, colour, points) in lines {
            let style = colour.stroke_width(2);
            let series = chart.draw_series(LineSeries::new(points, style)).map_err(|e| failed(&e))?;
            series.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        let mut labels = chart.configure_series_labels();
        let labels = labels.position(SeriesLabelPosition::LowerRight).background_style(WHITE.mix(0.8));
        labels.draw().map_err(|e| failed(&e))?;
    }
    area.present().map_err(|e| failed(&e))
}

/// A number with three digits that say something.
fn short(value: f64) -> String {
    let unit = 10f64.powf(value.max(1e-9).log10().floor() - 2.0);
    let rounded = (value / unit).round() * unit;
    if rounded >= 100.0 {
        return thousands(rounded);
    }
    format!("{rounded:.4}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A number with its thousands apart.
#[must_use]
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |rest| ("-", rest));
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    format!("{sign}{}", groups.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::End;
    use crate::plan::Cell;
    use crate::summary::{rows, tests::measured};

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(
            [0.4, 999.0, 1000.0, 1234567.2, -1234.0].map(thousands),
            ["0", "999", "1,000", "1,234,567", "-1,234"]
        );
    }

    #[test]
    fn labels_are_short() {
        assert_eq!([0.3162, 3.1622, 31.62, 316.2, 39810.7].map(short), ["0.316", "3.16", "31.6", "316", "39,800"]);
    }

    #[test]
    fn plots_are_drawn_of_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(draw(&[], dir.path()).unwrap().is_empty());
        let mut all = vec![measured(System::Synod, 1, 900.0, End::Done), measured(System::Etcd, 1, 90.0, End::Done)];
        for clients in [1, 256] {
            let mut more = measured(System::Synod, 1, 10.0 * clients as f64, End::Done);
            more.cell = Cell::closed("put", clients, 256);
            all.push(more);
        }
        let drawn = draw(&rows(&all), dir.path()).unwrap();
        assert_eq!(drawn.len(), 2, "{drawn:?}");
        for (_, file) in drawn {
            let text = std::fs::read_to_string(dir.path().join(file)).unwrap();
            assert!(text.contains("<svg") && text.contains("Synod") && text.contains("etcd"));
        }
    }
}
