//! `scrl-eval`: how good is a backbone?

mod cli;
mod report;

use std::process::ExitCode;

use anyhow::Result;
use scrl_cli::Stop;
use scrl_trainer::Error;
use scrl_trainer::evaluate::{Results, Subject, Watch, evaluate_boxes, evaluate_photos};

use cli::{Arguments, Common, Protocol};
use report::Report;

fn main() -> ExitCode {
    // Wrong usage ends here, with exit code 2.
    match run(scrl_cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => scrl_cli::fail::<Error>("scrl-eval", &error),
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let stop = Stop::on_ctrl_c()?;
    match arguments.protocol {
        Protocol::Roi(options) => {
            let config = options.resolve()?;
            judge(&options.common, &config.subject, &stop, |watch| evaluate_boxes(&config, watch))
        }
        Protocol::Linear(options) => {
            let config = options.resolve()?;
            judge(&options.common, &config.subject, &stop, |watch| evaluate_photos(&config, watch))
        }
    }
}

/// Runs a protocol, shows its table, and writes its files.
fn judge(
    common: &Common,
    subject: &Subject,
    stop: &Stop,
    protocol: impl FnOnce(&mut Watch) -> Result<Results, Error>,
) -> Result<()> {
    if let Some(threads) = common.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let mut report = Report::new(common.quiet, subject.probe.epochs);
    let results = protocol(&mut Watch::new(stop.flag(), &mut |progress| report.progress(progress)));
    report.finish();
    let results = results?;
    let [json, png] = results.write(&subject.out)?;
    if !common.quiet {
        println!("{}", results.table());
        println!(
            "{} of {}: {}, {}",
            results.arch,
            results.checkpoint,
            json.display(),
            png.display()
        );
    }
    Ok(())
}
