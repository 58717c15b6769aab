//! SGD, LARS and the schedules against PyTorch's numbers.

mod golden;

use std::path::Path;

use candle_core::{Device, Tensor, Var};
use golden::{Golden, assert_close};
use scrl_trainer::model::Parameter;
use scrl_trainer::ops::{Linear, Tape};
use scrl_trainer::optim::{Schedule, ScheduleConfig, Sgd, SgdConfig};

/// A finite loss, with which parameters move.
fn loss() -> Tensor {
    Tensor::new(1.0f32, &Device::Cpu).unwrap()
}

/// Compares the parameters of these names and their velocities after each of three steps.
fn compare_three_steps(golden: &Golden, case: &str, names: &[&str], config: SgdConfig) {
    let at = |name: String| golden.get(format!("{case}.{name}"));
    let parameters: Vec<Parameter> = names
        .iter()
        .map(|name| Parameter::new(*name, Var::from_tensor(at(format!("before.{name}"))).unwrap()))
        .collect();
    let weight_decay = golden.number(format!("{case}.weight_decay")) as f32;
    let mut sgd = Sgd::new(SgdConfig { weight_decay, ..config }, parameters.clone()).unwrap();
    for step in 0..3 {
        let gradients = parameters
            .iter()
            .map(|p| (p.tensor().clone(), at(format!("grad{step}.{}", p.name)).clone()))
            .collect();
        let lr = golden::numbers(at("lr".into()))[step].into();
        sgd.step(&gradients, &loss(), lr).unwrap();
        for (parameter, velocity) in parameters.iter().zip(sgd.velocities()) {
            let name = &parameter.name;
            let what = format!("{case} {name} after step {step}");
            assert_close(parameter.tensor(), at(format!("after{step}.{name}")), 1e-6, &what);
            assert_close(velocity.tensor(), at(format!("momentum{step}.{name}")), 1e-6, &what);
        }
    }
}

#[test]
fn lars_over_three_steps() {
    let golden = Golden::read("lars");
    let names = ["conv", "linear", "bias", "zero_weight", "zero_grad"];
    let config = SgdConfig { momentum: 0.9, trust: Some(1e-3), ..SgdConfig::default() };
    for case in golden.cases() {
        compare_three_steps(&golden, case, &names, config);
    }
}

#[test]
fn sgd_over_three_steps() {
    let golden = Golden::read("sgd");
    for (case, nesterov) in [("plain", false), ("nesterov", true)] {
        let config = SgdConfig { momentum: 0.9, nesterov, ..SgdConfig::default() };
        compare_three_steps(&golden, case, &["conv", "linear", "bias"], config);
    }
}

#[test]
fn a_parameter_without_gradient_stays() {
    let x = Tensor::new(&[[1.0f32, 2.0]], &Device::Cpu).unwrap();
    let unused = Var::from_tensor(&x).unwrap();
    let parameter = Parameter::new("unused", unused.clone());
    let config = SgdConfig { momentum: 0.9, weight_decay: 0.1, ..SgdConfig::default() };
    let mut sgd = Sgd::new(config, vec![parameter]).unwrap();
    let mut tape = Tape::recording();
    let y = tape.apply(Linear, [&x, &x.copy().unwrap()]).unwrap();
    let gradients = tape.backward(&y, y.ones_like().unwrap()).unwrap();
    sgd.step(&gradients, &loss(), 1.0).unwrap();
    assert_eq!(golden::numbers(&unused), [1.0, 2.0]);
}

#[test]
fn schedules() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/schedule.json");
    let cases: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let number = |name: &str| case[name].as_f64().unwrap();
        let schedule = Schedule(ScheduleConfig {
            peak_lr: number("peak"),
            tau: number("ema"),
            total_steps: number("total_steps") as u64,
            warmup_steps: number("warmup_steps") as u64,
        });
        for (index, step) in case["t"].as_array().unwrap().iter().enumerate() {
            let step = step.as_u64().unwrap();
            let close = |found: f64, expected: &serde_json::Value| {
                let expected = expected[index].as_f64().unwrap();
                assert!(
                    (found - expected).abs() <= 1e-9 * expected.abs() + 1e-12,
                    "step {step}: {found} {expected}"
                );
            };
            close(schedule.lr(step), &case["lr"]);
            close(schedule.tau(step), &case["tau"]);
        }
    }
}
