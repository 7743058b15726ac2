//! Measured times, and the table of results.

use std::time::Instant;

/// The number of untimed calls before each batch. During these calls, the caches fill, and the scheduler chooses a CPU
/// for each process.
const WARM: usize = 5;

/// The last cell of a line that has no target and does not count as a row.
const NO_TARGET: &str = "-";

/// Times in microseconds, sorted.
pub struct Samples(Vec<f64>);

impl Samples {
    /// Sorts the measured times.
    pub fn new(mut micros: Vec<f64>) -> Samples {
        micros.sort_by(f64::total_cmp);
        Samples(micros)
    }

    /// Returns the time that this fraction of the samples does not exceed. For the 99th percentile, `part` is 0.99.
    pub fn at(&self, part: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * part).round() as usize]
    }

    /// The median of the samples.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }
}

/// Runs several pieces of work in turn, and times each run. In each round, each piece of work runs `batch` times.
pub fn in_turns(rounds: usize, batch: usize, works: &mut [&mut dyn FnMut()]) -> Vec<Samples> {
    let mut times: Vec<Vec<f64>> = works.iter().map(|_| Vec::with_capacity(rounds * batch)).collect();
    for _ in 0..rounds {
        for (work, times) in works.iter_mut().zip(&mut times) {
            for _ in 0..WARM.min(batch) {
                work();
            }
            for _ in 0..batch {
                let began = Instant::now();
                work();
                times.push(micros_since(began));
            }
        }
    }
    times.into_iter().map(Samples::new).collect()
}

/// Microseconds since `began`.
pub fn micros_since(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}

/// The target that a row must reach.
#[derive(Clone, Copy)]
pub enum Reach {
    /// The median must be at most this many times the floor (the time that the machine itself needs).
    Times(f64),
    /// The median must be at most this many microseconds.
    Median(f64),
    /// The maximum median and the maximum 99th percentile, in microseconds.
    MedianAndP99(f64, f64),
}

/// The table of results. Each row is printed as soon as it is known.
pub struct Table {
    n_rows: usize,
    missed: Vec<String>,
    began: Instant,
}

/// A row's cells, as they are printed.
#[derive(Default)]
pub struct Row {
    /// What was measured.
    pub work: String,
    /// The measured value.
    pub figure: String,
    /// The time that one call in a hundred exceeds.
    pub p99: String,
    /// The time that the machine itself needs for similar work, or the size of similar data.
    pub floor: String,
    /// The measured value divided by the floor.
    pub ratio: String,
    /// The target that the measured value must reach.
    pub reach: String,
    /// Whether the target was reached.
    pub reached: bool,
}

impl Row {
    /// A row with a dash in each optional cell.
    pub fn blank() -> Row {
        let dash = || "-".to_owned();
        Row { p99: dash(), floor: dash(), ratio: dash(), ..Row::default() }
    }
}

impl Table {
    /// A table without rows.
    pub fn new() -> Table {
        Table { n_rows: 0, missed: Vec::new(), began: Instant::now() }
    }

    /// Prints the header.
    pub fn head(&self) {
        print_cells(["work", "median", "p99", "floor", "ratio", "reach", "reached"]);
        println!("{}", "-".repeat(110));
    }

    /// Prints and counts a row that comes from another process of this program.
    pub fn printed(&mut self, line: &str) {
        println!("{line}");
        if line.ends_with(NO_TARGET) {
            return;
        }
        self.n_rows += 1;
        if line.ends_with(" NO") {
            let work: String = line.chars().take(38).collect();
            self.missed.push(work.trim_end().to_owned());
        }
    }

    /// Prints a row.
    pub fn row(&mut self, row: Row) {
        let said = if row.reached { "yes" } else { "NO" };
        print_cells([&row.work, &row.figure, &row.p99, &row.floor, &row.ratio, &row.reach, said]);
        self.n_rows += 1;
        if !row.reached {
            self.missed.push(row.work);
        }
    }

    /// Prints a row of times. `floor` is the time for comparison, in microseconds.
    pub fn times(&mut self, work: &str, samples: &Samples, floor: Option<f64>, reach: Reach) {
        let (median, p99) = (samples.median(), samples.at(0.99));
        let ratio = floor.map(|floor| median / floor);
        let (text, reached) = match reach {
            Reach::Times(n) => (format!("{n} x"), ratio.is_some_and(|ratio| ratio <= n)),
            Reach::Median(most) => (span(most), median <= most),
            Reach::MedianAndP99(most, tail) => {
                (format!("{}, {}", span(most), span(tail)), median <= most && p99 <= tail)
            }
        };
        self.row(Row {
            work: work.into(),
            figure: span(median),
            p99: span(p99),
            floor: floor.map_or("-".into(), span),
            ratio: ratio.map_or("-".into(), |ratio| format!("{ratio:.2}")),
            reach: text,
            reached,
        });
    }

    /// Prints how long a bare broker takes for the work of the previous row. This line has no target and does not count
    /// as a row.
    pub fn bare(&self, samples: &Samples, floor: Option<f64>) {
        let (median, p99) = (samples.median(), samples.at(0.99));
        let ratio = floor.map_or("-".into(), |floor| format!("{:.2}", median / floor));
        self.bare_cells(&span(median), &span(p99), &floor.map_or("-".into(), span), &ratio);
    }

    /// Prints the same kind of line as [`Table::bare`]. The caller passes each figure as text.
    pub fn bare_cells(&self, figure: &str, p99: &str, floor: &str, ratio: &str) {
        print_cells(["  a broker without rules", figure, p99, floor, ratio, "-", NO_TARGET]);
    }

    /// Prints how many rows reached their targets, and which rows did not.
    pub fn end(self) {
        let n_reached = self.n_rows - self.missed.len();
        println!("\n{n_reached} of {} reached, in {:.0} s", self.n_rows, self.began.elapsed().as_secs_f64());
        for work in self.missed {
            println!("  not reached: {work}");
        }
    }
}

fn print_cells(cells: [&str; 7]) {
    let [work, figure, p99, floor, ratio, reach, reached] = cells;
    println!("{work:<38} {figure:>12} {p99:>12} {floor:>12} {ratio:>6}   {reach:<18} {reached}");
}

/// Formats microseconds for people.
pub fn span(micros: f64) -> String {
    if micros < 1000.0 { format!("{micros:.1} µs") } else { format!("{:.2} ms", micros / 1000.0) }
}

/// Formats bytes for people.
pub fn size(bytes: f64) -> String {
    format!("{:.2} MB", bytes / 1e6)
}
