//! Throughput by slots, drawn from the results file.
//!
//! Invariant: for every provider and number of slots the last line of the file counts.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use plotters::prelude::*;

use crate::compare::{Line, median};
use crate::contender::Kind;
use crate::suite::Unit;

/// Reads a results file.
pub(crate) fn read(path: &Path) -> Result<Vec<Line>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Draws fan-out throughput by slots, both axes logarithmic.
pub(crate) fn draw(lines: &[Line], to: &Path) -> Result<()> {
    let mut curves: BTreeMap<Kind, BTreeMap<usize, f64>> = BTreeMap::new();
    for line in lines.iter().filter(|l| l.scenario.starts_with("fan-out-")) {
        if let Some(middle) = median(&line.figures(Unit::Activities)) {
            curves.entry(line.provider).or_default().insert(line.slots, middle);
        }
    }
    if curves.is_empty() {
        bail!("the file has no fan-out results");
    }
    let area = SVGBackend::new(to, (840, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "Fan-out of 5: activities/s by slots (durable commits)",
            ("sans-serif", 20),
        )
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((1.8f64..150.0).log_scale(), (100f64..100_000.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("slots of each kind")
        .y_desc("activities/s")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for (n, (kind, points)) in curves.iter().enumerate() {
        let colour = Palette99::pick(n).to_rgba();
        let points: Vec<(f64, f64)> = points.iter().map(|(slots, v)| (*slots as f64, *v)).collect();
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
            .label(kind.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(points.iter().map(|p| Circle::new(*p, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}
