//! `scripts/plot_metrics.py`, which needs nothing but Python.

use scrl_tests::Dir;

/// A run as scrl-train logs it.
fn run(dir: Dir, name: &str, steps: u32, lr: f64, labels: bool) -> Dir {
    let line = |step: u32| {
        let accuracy = if labels { (f64::from(step) / 1e3).to_string() } else { "null".to_owned() };
        format!(
            "{{\"step\":{step},\"epoch\":0,\"loss\":{},\"lr\":{lr},\"ema\":0.97,\"boxes\":9,\"pairs_per_s\":20.5,\
             \"data_wait\":0.0,\"online_acc\":{accuracy},\"projection_std\":0.05,\"target_std\":0.05}}\n",
            4.0 - f64::from(step) / f64::from(steps)
        )
    };
    let lines: String = (1..=steps).map(line).collect();
    let config = format!("out = \"{name}\"\narch = \"resnet18\"\nlr = {lr}\n");
    dir.file(&format!("{name}/metrics.jsonl"), lines).file(&format!("{name}/config.toml"), config)
}

#[test]
fn one_run_becomes_a_drawing_beside_its_metrics() {
    let dir = run(Dir::new(), "run", 500, 0.5, true);
    assert_eq!(dir.script("plot_metrics.py", "run").succeeds().stdout.trim(), "run/metrics.svg");
    let drawing = dir.text("run/metrics.svg");
    assert!(drawing.starts_with("<svg ") && drawing.ends_with("</svg>\n"));
    for word in [
        "scrl-train: run",
        "arch resnet18 · lr 0.5",
        ">loss<",
        "online accuracy",
        "prefers-color-scheme:dark",
    ] {
        assert!(drawing.contains(word), "no {word}");
    }
    assert!(
        !drawing.contains("nan") && !drawing.contains("http://")
            || drawing.matches("http://").count() == 1
    );
}

#[test]
fn several_runs_lie_over_each_other_with_what_differs() {
    let dir = run(run(Dir::new(), "a", 1, 0.5, false), "b", 3000, 0.25, false);
    dir.script("plot_metrics.py", "a b --out both.svg").succeeds();
    let drawing = dir.text("both.svg");
    for word in ["2 runs", ">a<tspan", "lr 0.25", "<circle", "class=\"run1 thick\""] {
        assert!(drawing.contains(word), "no {word}");
    }
    assert!(!drawing.contains("online accuracy") && !drawing.contains("arch"));
    // A long run is thinned to what can be seen.
    assert!(drawing.len() < 200_000, "{} bytes", drawing.len());
}

#[test]
fn what_cannot_be_drawn_is_named() {
    let dir = Dir::new().file("empty/metrics.jsonl", "");
    dir.script("plot_metrics.py", "empty")
        .fails(1)
        .says(&["empty/metrics.jsonl: no step is logged yet"]);
    dir.script("plot_metrics.py", "nowhere").fails(1).says(&["nowhere"]);
}
