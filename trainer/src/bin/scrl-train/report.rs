//! What the user reads before and after the run.

use indicatif::HumanDuration;
use scrl_cli::Reporter;
use scrl_trainer::collective::Ranks;
use scrl_trainer::data::Dataset;
use scrl_trainer::train::{Method, Output, Summary, TrainConfig};

/// Prints what is about to be trained.
pub fn outline(reporter: &Reporter, config: &TrainConfig, dataset: &Dataset, ranks: &Ranks) {
    let options = &config.hyperparameters;
    config.chosen.iter().for_each(|line| reporter.say(line));
    reporter.say(format_args!(
        "{} with {} on {}{}: {} pairs an epoch, {} a step, {} in all; writing to {}",
        match options.method {
            Method::Scrl => "SCRL",
            Method::Byol => "BYOL",
        },
        options.arch,
        config.device,
        match ranks.size() {
            1 => String::new(),
            size => format!(" by {size} processes, threads of each: {}", config.threads),
        },
        dataset.rows_per_epoch(),
        options.pairs_per_step(),
        config.pairs(dataset),
        config.out.display()
    ));
    if let Some(reason) = &config.why_cpu {
        reporter.say(format_args!("note: on the CPU, as {reason}"));
    }
    if options.warmup_epochs >= options.epochs {
        reporter.say(format_args!(
            "note: the learning rate rises for all {} epochs, as --warmup-epochs is {}",
            options.epochs, options.warmup_epochs
        ));
    }
}

/// Prints where the results are.
pub fn summary(reporter: &Reporter, summary: &Summary, config: &TrainConfig) {
    let output = Output::new(&config.out);
    reporter.say(format_args!(
        "{} steps done in {}; the backbone is {}, the losses are in {} and {}",
        summary.steps,
        HumanDuration(summary.time),
        output.backbone().display(),
        output.metrics().display(),
        output.drawing().display()
    ));
    if let Some(memory) = summary.memory {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        reporter.say(format_args!(
            "GPU memory: at most {:.1} GiB in use, {:.1} GiB reserved",
            gib(memory.used),
            gib(memory.reserved)
        ));
    }
}
