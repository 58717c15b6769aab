//! `scrl-inspect`: what a folder of shards holds, whether it is right, and pictures of it.

mod cli;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use rayon::ThreadPoolBuilder;
use scrl_preprocess::Error;
use scrl_preprocess::inspect::distributions::Distributions;
use scrl_preprocess::inspect::pairs::{self, Pair};
use scrl_preprocess::inspect::verify::{Pixels, verify};
use scrl_preprocess::inspect::{Shards, page, sheet, summary};
use scrl_schemas::atomic;

use cli::Command;
use report::Report;

fn main() -> ExitCode {
    // Wrong usage ends here, with exit code 2.
    let command = cli::parse();
    match inspect(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => scrl_cli::fail::<Error>("scrl-inspect", &error),
    }
}

fn inspect(command: &Command) -> anyhow::Result<()> {
    scrl_cli::watch_for_interruption()?;
    let pool = ThreadPoolBuilder::new().num_threads(command.threads).build()?;
    let report = Report::new(command.quiet);
    pool.install(|| {
        let shards = Shards::open(&command.shards, command.epoch)?;
        let images = command.images.clone().unwrap_or_else(|| PathBuf::from(&shards.manifest.images));
        if command.verify {
            return check(command, &shards, images, &report);
        }
        shards.require_whole()?;
        if let Some(file) = &command.png {
            let pairs = choose(command, &shards, &images, command.sheet_rows, &report)?;
            write(file, &sheet::png(&pairs, shards.manifest.options.size)?, &report)?;
        }
        if command.tells_numbers() || command.html.is_some() {
            let found =
                report.follow(shards.rows(), "pairs", |progress| Distributions::of(&shards, progress))?;
            if let Some(file) = &command.html {
                let pairs = choose(command, &shards, &images, command.page_rows, &report)?;
                let expected = Distributions::expected(&shards);
                write(file, page::html(&shards, &found, &expected, &pairs)?.as_bytes(), &report)?;
            }
            if command.json {
                println!("{:#}", summary::json(&shards, &found));
            } else if command.tells_numbers() {
                println!("{}", summary::text(&shards, &found));
            }
        }
        Ok(())
    })
}

fn choose(
    command: &Command,
    shards: &Shards,
    images: &Path,
    rows: u64,
    report: &Report,
) -> anyhow::Result<Vec<Pair>> {
    let rows = rows.min(shards.rows());
    Ok(report
        .follow(rows, "pairs", |progress| pairs::choose(shards, images, rows, command.seed, progress))?)
}

fn write(file: &Path, bytes: &[u8], report: &Report) -> anyhow::Result<()> {
    atomic::write(file, bytes)?;
    report.written(file, bytes.len() as u64);
    Ok(())
}

fn check(command: &Command, shards: &Shards, images: PathBuf, report: &Report) -> anyhow::Result<()> {
    let pixels = if command.no_pixels { Pixels::Skip } else { Pixels::From(images) };
    let sources = if shards.are_recipes() && !command.no_pixels { shards.sources.len() as u64 } else { 0 };
    let verdict =
        report.follow(shards.rows() + sources, "rows", |progress| verify(shards, &pixels, progress))?;
    report.verdict(shards, &verdict);
    if verdict.fault_count > 0 {
        let plural = if verdict.fault_count == 1 { "" } else { "s" };
        let ways: Vec<&str> = [
            (true, "remove the epochs named and run the same scrl-prep command again: they come out as they were"),
            (false, "bring the photos named back as they were"),
        ]
        .into_iter()
        .filter(|(of_shards, _)| verdict.faults.iter().any(|fault| fault.is_of_shards() == *of_shards))
        .map(|(_, way)| way)
        .collect();
        let shards = shards.layout.root().display();
        bail!("{shards}: {} fault{plural}; {}", verdict.fault_count, ways.join("; "));
    }
    Ok(())
}
