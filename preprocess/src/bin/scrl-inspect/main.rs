//! `scrl-inspect`: statistics of a shards folder, its verification, and images of its pairs.

mod cli;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use indicatif::HumanBytes;
use rayon::ThreadPoolBuilder;
use scrl_cli::{Reporter, Stop};
use scrl_preprocess::Error;
use scrl_preprocess::inspect::distributions::Distributions;
use scrl_preprocess::inspect::pairs::{self, Pair};
use scrl_preprocess::inspect::verify::{Pixels, verify};
use scrl_preprocess::inspect::{Options, Shards, contact_sheet, page, summary};
use scrl_schemas::{Epoch, store};

use cli::Arguments;

fn main() -> ExitCode {
    match run(scrl_cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => scrl_cli::fail::<Error>("scrl-inspect", &error),
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { shards, options, quiet, .. } = arguments;
    options.check()?;
    let reporter = Reporter::new(quiet, Stop::on_ctrl_c()?);
    let threads = scrl_cli::threads(options.threads);
    let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
    pool.install(|| {
        let shards = Shards::open(&shards, options.epoch.map(Epoch))?;
        let recorded = || PathBuf::from(&shards.manifest.images);
        let images = options.images.clone().unwrap_or_else(recorded);
        if options.verify {
            check(&options, &shards, images, &reporter, quiet)
        } else {
            show(&options, &shards, &images, &reporter)
        }
    })
}

/// Prints and draws what is requested.
fn show(
    options: &Options,
    shards: &Shards,
    images: &Path,
    reporter: &Reporter,
) -> anyhow::Result<()> {
    shards.require_intact()?;
    if let Some(file) = &options.png {
        let pairs = choose(options, options.sheet_pairs(), shards, images, reporter)?;
        write(file, &contact_sheet::png(&pairs, shards.manifest.options.size)?, reporter)?;
    }
    if !options.prints_statistics() && options.html.is_none() {
        return Ok(());
    }
    reporter.begin("pairs", shards.rows(), 0);
    let found = Distributions::of(shards, reporter)?;
    reporter.end();
    if let Some(file) = &options.html {
        let pairs = choose(options, options.page_pairs(), shards, images, reporter)?;
        let expected = Distributions::expected(shards);
        write(file, page::html(shards, &found, &expected, &pairs)?.as_bytes(), reporter)?;
    }
    if options.json {
        scrl_cli::print(format_args!("{:#}", summary::json(shards, &found)));
    } else if options.prints_statistics() {
        scrl_cli::print(summary::text(shards, &found));
    }
    Ok(())
}

fn choose(
    options: &Options,
    count: u64,
    shards: &Shards,
    images: &Path,
    reporter: &Reporter,
) -> anyhow::Result<Vec<Pair>> {
    let count = count.min(shards.rows());
    reporter.begin("pairs", count, 0);
    let pairs = pairs::choose(shards, images, count, options.seed.unwrap_or(0), reporter);
    reporter.end();
    Ok(pairs?)
}

fn write(file: &Path, bytes: &[u8], reporter: &Reporter) -> anyhow::Result<()> {
    store::write(file, bytes)?;
    reporter.say(format_args!("{}: {}", file.display(), HumanBytes(bytes.len() as u64)));
    Ok(())
}

fn check(
    options: &Options,
    shards: &Shards,
    images: PathBuf,
    reporter: &Reporter,
    quiet: bool,
) -> anyhow::Result<()> {
    let pixels = if options.no_pixels { Pixels::Skip } else { Pixels::From(images) };
    let decodes_sources = shards.are_recipes() && !options.no_pixels;
    let sources = if decodes_sources { shards.sources.len() as u64 } else { 0 };
    reporter.begin("rows", shards.rows() + sources, 0);
    let verdict = verify(shards, &pixels, reporter);
    reporter.end();
    let verdict = verdict?;
    report::verdict(shards, &verdict, quiet);
    if verdict.fault_count == 0 {
        return Ok(());
    }
    let of_shards = "remove the epochs named and run the same scrl-prep command again, which makes \
                     them identical";
    let of_sources = "restore the images named";
    let has = |shards| verdict.faults.iter().any(|fault| fault.is_of_shards() == shards);
    let advice: Vec<&str> = [(true, of_shards), (false, of_sources)]
        .into_iter()
        .filter_map(|(shards, advice)| has(shards).then_some(advice))
        .collect();
    let plural = if verdict.fault_count == 1 { "" } else { "s" };
    let folder = shards.paths.root().display();
    bail!("{folder}: {} fault{plural}; {}", verdict.fault_count, advice.join("; "));
}
