//! Plots (SVG) of what was measured.

use std::{fmt, path::Path};

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::{
        ChartBuilder, Circle, Color as _, DrawingArea, IntoDrawingArea as _, IntoLogRange as _,
        LineSeries, PathElement, RGBColor, Rectangle, SVGBackend, SeriesLabelPosition, Text,
    },
    style::{
        BLACK, IntoFont as _, TextStyle, WHITE,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::report::{Row, shown};

const WIDTH: u32 = 1100;
const FONT: &str = "sans-serif";

/// Colours that people tell apart who see fewer of them, too (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
const GATE: RGBColor = RGBColor(200, 30, 30);
const GOAL: RGBColor = RGBColor(0, 130, 90);
const GREY: RGBColor = RGBColor(120, 120, 120);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line of a chart.
pub(super) struct Line {
    pub(super) name: String,
    /// In ascending order; all greater than zero.
    pub(super) points: Vec<(f64, f64)>,
}

/// What a chart says of its axes.
pub(super) struct Axes<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
}

/// Lines on axes that are logarithmic both. Nothing is drawn of nothing.
///
/// # Errors
///
/// If the file cannot be written.
pub(super) fn lines(path: &Path, axes: &Axes<'_>, lines: &[Line]) -> Result<()> {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let x = decades(points().map(|(x, _)| x));
    let y = decades(points().map(|(_, y)| y));
    let (Some(x), Some(y)) = (x, y) else {
        return Ok(());
    };
    let root = SVGBackend::new(path, (WIDTH, 640)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(axes.title, (FONT, 22))
        .margin(18)
        .x_label_area_size(56)
        .y_label_area_size(84)
        .build_cartesian_2d(x.log_scale(), y.log_scale())
        .map_err(failed)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(axes.x)
        .y_desc(axes.y)
        .axis_desc_style((FONT, 16))
        .label_style((FONT, 14))
        .bold_line_style(GREY.mix(0.4))
        .light_line_style(GREY.mix(0.12))
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value));
    mesh.draw().map_err(failed)?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let drawn = LineSeries::new(line.points.iter().copied(), colour.stroke_width(2));
        chart
            .draw_series(drawn)
            .map_err(failed)?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(3)));
        let marks = line
            .points
            .iter()
            .map(|at| Circle::new(*at, 4, colour.filled()));
        chart.draw_series(marks).map_err(failed)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font((FONT, 14))
        .background_style(WHITE.mix(0.85))
        .border_style(GREY.mix(0.5))
        .draw()
        .map_err(failed)?;
    root.present().map_err(failed)
}

/// The decades that hold all values; nothing without one.
fn decades(values: impl Iterator<Item = f64>) -> Option<std::ops::Range<f64>> {
    let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
    for value in values.filter(|value| *value > 0.0) {
        (least, most) = (least.min(value), most.max(value));
    }
    if most == 0.0 {
        return None;
    }
    let decade = |value: f64| 10_f64.powf(value);
    let low = decade(least.log10().floor());
    // Beyond the last point, so that its mark is whole.
    let high = decade((most * 1.1).log10().ceil());
    Some(low..high.max(low * 10.0))
}

/// A number on an axis.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        1e9.. => (value / 1e9, "G"),
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    format!("{}{unit}", (value * 1000.0).round() / 1000.0)
}

/// Pixels of one bar, with what separates it from the next.
const BAR: i32 = 26;
/// Where bars begin, and where the longest ends.
const BARS: (i32, i32) = (560, 980);
/// What is above the first bar.
const HEAD: i32 = 74;

/// A bar for each row of one unit, with its gate and goal.
///
/// # Errors
///
/// If the file cannot be written.
pub(super) fn bars(path: &Path, title: &str, unit: &str, rows: &[&Row]) -> Result<()> {
    let most = rows
        .iter()
        .flat_map(|row| [Some(row.value), row.gate, row.goal]);
    let most = most.flatten().fold(0.0, f64::max);
    if most == 0.0 {
        return Ok(());
    }
    let height = HEAD + BAR * rows.len() as i32 + 20;
    let root = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let head = TextStyle::from((FONT, 22).into_font());
    text(
        &root,
        title,
        (18, 20),
        &head.pos(Pos::new(HPos::Left, VPos::Center)),
    )?;
    legend(&root, unit)?;
    for (row, index) in rows.iter().zip(0..) {
        let canvas = Canvas {
            root: &root,
            y: HEAD + index * BAR,
            scale: f64::from(BARS.1 - BARS.0) / most,
        };
        canvas.bar(row)?;
    }
    root.present().map_err(failed)
}

fn legend(root: &Area<'_>, unit: &str) -> Result<()> {
    let style = small().pos(Pos::new(HPos::Left, VPos::Center));
    let y = 52;
    text(root, unit, (BARS.0, y), &style.clone().color(&GREY))?;
    for (name, colour, x) in [("gate", GATE, 780), ("goal", GOAL, 860)] {
        let mark = PathElement::new([(x, y - 8), (x, y + 8)], colour.stroke_width(3));
        root.draw(&mark).map_err(failed)?;
        text(root, name, (x + 8, y), &style)?;
    }
    Ok(())
}

/// Where a bar is drawn.
struct Canvas<'a, 'b> {
    root: &'a Area<'b>,
    y: i32,
    /// Pixels of one unit.
    scale: f64,
}

impl Canvas<'_, '_> {
    fn x(&self, value: f64) -> i32 {
        BARS.0 + (value.max(0.0) * self.scale) as i32
    }

    fn bar(&self, row: &Row) -> Result<()> {
        let (top, bottom) = (self.y + 4, self.y + BAR - 4);
        let middle = self.y + BAR / 2;
        let name = small().pos(Pos::new(HPos::Right, VPos::Center));
        text(self.root, &row.name, (BARS.0 - 8, middle), &name)?;
        let colour = if row.misses_gate() { GATE } else { COLOURS[0] };
        let end = self.x(row.value);
        let bar = Rectangle::new([(BARS.0, top), (end, bottom)], colour.mix(0.75).filled());
        self.root.draw(&bar).map_err(failed)?;
        let mut furthest = end;
        for (bound, colour) in [(row.gate, GATE), (row.goal, GOAL)] {
            let Some(bound) = bound else { continue };
            let x = self.x(bound);
            let mark = PathElement::new([(x, top - 2), (x, bottom + 2)], colour.stroke_width(3));
            self.root.draw(&mark).map_err(failed)?;
            furthest = furthest.max(x);
        }
        let value = small().pos(Pos::new(HPos::Left, VPos::Center));
        text(self.root, &shown(row.value), (furthest + 8, middle), &value)
    }
}

fn small<'a>() -> TextStyle<'a> {
    (FONT, 14).into_font().color(&BLACK)
}

fn text(root: &Area<'_>, words: &str, at: (i32, i32), style: &TextStyle<'_>) -> Result<()> {
    root.draw(&Text::new(words, at, style)).map_err(failed)
}

/// plotters' errors live as long as its backend.
fn failed(error: impl fmt::Display) -> anyhow::Error {
    anyhow!("draw a plot: {error}")
}
