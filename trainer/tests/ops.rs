//! Every computation against PyTorch's numbers, forward and backward.

mod golden;

use candle_core::{DType, Device, Tensor};
use golden::{Golden, assert_close, numbers};
use scrl_trainer::collective::Ranks;
use scrl_trainer::model::{BatchNormLayer, Parameter, Parameters};
use scrl_trainer::ops::{
    Conv2d, CosineLoss, CrossEntropy, GlobalAveragePool, IMAGENET_MEAN, IMAGENET_STD, Linear,
    MaxPool, Op, RoiAlign, Tape, UNKNOWN_CLASS, batch_statistics, count_correct, embedding_std,
    normalize_pixels,
};

const TIGHT: f64 = 2e-6;

/// `[O, I, kh, kw]` to the `[O, kh, kw, I]` used inside.
fn filter(weight: &Tensor) -> Tensor {
    weight.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
}

#[test]
fn conv2d() {
    let golden = Golden::read("conv");
    for case in golden.cases() {
        let get = |name: &str| golden.get(format!("{case}.{name}"));
        let conv = Conv2d {
            stride: golden.count(format!("{case}.stride")),
            padding: golden.count(format!("{case}.padding")),
            input_gradient: true,
        };
        let weight = filter(get("weight"));
        let mut tape = Tape::recording();
        let y = tape.apply(conv, [get("x"), &weight]).unwrap();
        assert_close(&y, get("y"), TIGHT, case);
        let gradients = tape.backward(&y, get("grad_y").clone()).unwrap();
        assert_close(gradients.get(get("x")).unwrap(), get("grad_x"), TIGHT, case);
        assert_close(gradients.get(&weight).unwrap(), &filter(get("grad_weight")), TIGHT, case);
    }
}

/// Shapes that no golden file has room for: several chunks and slabs, channels that fill no block,
/// lines cut by them.
#[test]
fn conv2d_of_many_shapes() {
    // [N, H, W, I], [O, kernel, stride, padding].
    for ([n, h, w, i], [o, k, stride, padding]) in [
        ([3, 37, 29, 3], [20, 7, 2, 3]),
        ([2, 41, 23, 40], [70, 3, 1, 1]),
        ([5, 9, 11, 33], [35, 3, 2, 1]),
        ([4, 13, 13, 64], [16, 1, 1, 0]),
        ([4, 12, 10, 24], [50, 1, 2, 0]),
        ([7, 3, 3, 130], [5, 3, 1, 1]),
        ([1, 6, 5, 2], [1, 2, 3, 1]),
        ([2, 8, 8, 600], [9, 3, 1, 1]),
        ([2, 13, 18, 32], [64, 3, 1, 1]),
        ([26, 3, 3, 96], [32, 3, 1, 1]),
        ([4, 12, 12, 256], [128, 3, 1, 1]),
        ([30, 16, 20, 64], [32, 3, 1, 1]),
    ] {
        let case = format!("{:?}", ([n, h, w, i], [o, k, stride, padding]));
        let mut state = 1u32;
        let mut random = |shape: &[usize]| {
            let numbers: Vec<f32> = (0..shape.iter().product())
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 8) as f32 / (1 << 23) as f32 - 1.0
                })
                .collect();
            Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
        };
        let (x, filter) = (random(&[n, h, w, i]), random(&[o, k, k, i]));
        let conv = Conv2d { stride, padding, input_gradient: true };
        let mut tape = Tape::recording();
        let y = tape.apply(conv, [&x, &filter]).unwrap();
        let (_, out_h, out_w, _) = y.dims4().unwrap();
        let grad = random(&[n, out_h, out_w, o]);
        let gradients = tape.backward(&y, grad.clone()).unwrap();

        let exact =
            |tensor: &Tensor| -> Vec<f64> { numbers(tensor).into_iter().map(f64::from).collect() };
        let [xs, filters, grads] = [&x, &filter, &grad].map(exact);
        let (mut ys, mut dx, mut df) =
            (vec![0.0; grads.len()], vec![0.0; xs.len()], vec![0.0; filters.len()]);
        for place in 0..n * out_h * out_w {
            let (image, oy, ox) = (place / (out_h * out_w), place / out_w % out_h, place % out_w);
            for (dy, dx_) in (0..k * k).map(|tap| (tap / k, tap % k)) {
                let (y, x) = (oy * stride + dy, ox * stride + dx_);
                if y < padding || x < padding || y - padding >= h || x - padding >= w {
                    continue;
                }
                let from = ((image * h + y - padding) * w + x - padding) * i;
                for (output, channel) in (0..o * i).map(|at| (at / i, at % i)) {
                    let tap = ((output * k + dy) * k + dx_) * i + channel;
                    ys[place * o + output] += xs[from + channel] * filters[tap];
                    dx[from + channel] += grads[place * o + output] * filters[tap];
                    df[tap] += grads[place * o + output] * xs[from + channel];
                }
            }
        }
        let like = |numbers: Vec<f64>, tensor: &Tensor| {
            let numbers: Vec<f32> = numbers.into_iter().map(|number| number as f32).collect();
            Tensor::from_vec(numbers, tensor.dims(), &Device::Cpu).unwrap()
        };
        assert_close(&y, &like(ys, &y), TIGHT, &case);
        assert_close(gradients.get(&x).unwrap(), &like(dx, &x), TIGHT, &case);
        assert_close(gradients.get(&filter).unwrap(), &like(df, &filter), TIGHT, &case);
    }
}

#[test]
fn conv2d_refuses_what_does_not_fit() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let conv = || Conv2d { stride: 1, padding: 0, input_gradient: true };
    for (x, w) in [
        (&[1, 4, 4, 3][..], &[8, 3, 3, 4][..]),
        (&[1, 2, 2, 3], &[8, 3, 3, 3]),
        (&[4, 4, 3], &[8, 1, 1, 3]),
    ] {
        let message = conv().forward([&zeros(x), &zeros(w)]).unwrap_err().to_string();
        assert!(message.contains("conv2d"), "{message}");
    }
}

#[test]
fn max_pool() {
    let golden = Golden::read("max_pool");
    for case in golden.cases() {
        let get = |name: &str| golden.get(format!("{case}.{name}"));
        let mut tape = Tape::recording();
        let y = tape.apply(MaxPool::new(3, 2, 1), [get("x")]).unwrap();
        assert_close(&y, get("y"), 0.0, case);
        let gradients = tape.backward(&y, get("grad_y").clone()).unwrap();
        assert_close(gradients.get(get("x")).unwrap(), get("grad_x"), TIGHT, case);
    }
}

#[test]
fn roi_align() {
    let golden = Golden::read("roi_align");
    for case in golden.cases() {
        let get = |name: &str| golden.get(format!("{case}.{name}"));
        let mut tape = Tape::recording();
        let out = tape.apply(RoiAlign, [get("map"), get("rois")]).unwrap();
        // 2e-6 over all; single boxes may lie where interpolation cancels.
        assert_close(&out, get("out"), TIGHT, case);
        let gradients = tape.backward(&out, get("grad_out").clone()).unwrap();
        assert_close(gradients.get(get("map")).unwrap(), get("grad_map"), TIGHT, case);
    }
}

/// Cell i has its center at pixel 32·(i + 0.5).
#[test]
fn a_point_is_read_bilinearly_where_it_is() {
    let map = Tensor::arange(0.0f32, 6.0, &Device::Cpu).unwrap().reshape((1, 2, 3, 1)).unwrap();
    for ((x, y), expected) in [
        ((16.0, 16.0), 0.0),
        ((80.0, 48.0), 5.0),
        ((32.0, 16.0), 0.5),
        ((72.0, 24.0), 0.25 * 3.0 + 1.75),
        ((0.0, 0.0), 0.0),
        ((96.0, 64.0), 5.0),
    ] {
        let rois = Tensor::new(&[[0.0f32, x, y, x, y]], &Device::Cpu).unwrap();
        let read = RoiAlign.forward([&map, &rois]).unwrap();
        assert_eq!(read.to_vec2::<f32>().unwrap(), [[expected]], "{x} {y}");
    }
}

#[test]
fn roi_align_refuses_a_box_of_no_image() {
    let map = Tensor::zeros((2, 3, 3, 1), DType::F32, &Device::Cpu).unwrap();
    let rois = Tensor::new(&[[2.0f32, 0.0, 0.0, 9.0, 9.0]], &Device::Cpu).unwrap();
    assert!(RoiAlign.forward([&map, &rois]).is_err());
}

fn batch_norm_layer(channels: usize) -> (BatchNormLayer, Parameters) {
    Parameters::build(None, &Device::Cpu, |vb| BatchNormLayer::new(channels, &vb.pp("bn"))).unwrap()
}

#[test]
fn batch_norm() {
    let golden = Golden::read("batch_norm");
    for case in golden.cases() {
        let get = |name: &str| golden.get(format!("{case}.{name}"));
        let channels = *get("x").dims().last().unwrap();
        let (layer, parameters) = batch_norm_layer(channels);
        let parameter = |name: &str| parameters.0.iter().find(|p| p.name.ends_with(name)).unwrap();
        parameter("weight").set(get("weight")).unwrap();
        parameter("bias").set(get("bias")).unwrap();
        parameter("mean").set(get("running_mean_before")).unwrap();
        parameter("var").set(get("running_var_before")).unwrap();

        let mut tape = Tape::recording();
        let has_residual = golden.has(&format!("{case}.r"));
        let y = if has_residual {
            layer.forward_add_relu(&mut tape, get("x"), get("r")).unwrap()
        } else {
            layer.forward(&mut tape, get("x"), case.starts_with("relu")).unwrap()
        };
        assert_close(&y, get("y"), TIGHT, case);
        assert_close(parameter("mean").tensor(), get("running_mean_after"), TIGHT, case);
        assert_close(parameter("var").tensor(), get("running_var_after"), TIGHT, case);

        let gradients = tape.backward(&y, get("grad_y").clone()).unwrap();
        assert_close(gradients.get(get("x")).unwrap(), get("grad_x"), 1e-5, case);
        let gradient = |parameter: &Parameter| gradients.get(parameter.tensor()).unwrap();
        assert_close(gradient(parameter("weight")), get("grad_weight"), TIGHT, case);
        assert_close(gradient(parameter("bias")), get("grad_bias"), TIGHT, case);
        if has_residual {
            assert_close(gradients.get(get("r")).unwrap(), get("grad_r"), TIGHT, case);
        }
    }
}

#[test]
fn batch_norm_keeps_its_precision_far_from_zero() {
    // 40,000 rows of mean 1000 and variance 1/12: E[x²] − E[x]² would be lost in float32.
    let rows = 40_000;
    let x: Vec<f32> = (0..rows).map(|i| 1000.0 + (i * 7919 % rows) as f32 / rows as f32).collect();
    let x = Tensor::from_vec(x, (rows, 1), &Device::Cpu).unwrap();
    let statistics = numbers(&batch_statistics(&x, &Ranks::default()).unwrap());
    assert!((statistics[0] - 1000.5).abs() < 1e-3, "{statistics:?}");
    assert!((statistics[1] - 1.0 / 12.0).abs() < 1e-4, "{statistics:?}");
}

#[test]
fn not_a_number_is_not_hidden_by_relu() {
    let x = Tensor::new(&[[f32::NAN], [1.0], [2.0]], &Device::Cpu).unwrap();
    let (layer, _) = batch_norm_layer(1);
    let y = layer.forward(&mut Tape::forward_only(), &x, true).unwrap();
    assert!(numbers(&y).iter().all(|value| value.is_nan()));
}

/// The gradient of Σ y·w by central differences, in float64.
fn numeric_gradient(x: &[f32], mut value: impl FnMut(&[f32]) -> f64) -> Vec<f32> {
    let step = 1e-2f32;
    (0..x.len())
        .map(|i| {
            let mut at = |shift: f32| {
                let mut moved = x.to_vec();
                moved[i] += shift;
                value(&moved)
            };
            ((at(step) - at(-step)) / f64::from(2.0 * step)) as f32
        })
        .collect()
}

fn wave(count: usize, phase: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 1.7 + phase).sin()).collect()
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
}

#[test]
fn linear_gradients_by_differences() {
    let (x, w, b) = (wave(6, 0.1), wave(12, 0.2), wave(4, 0.3));
    let weights = wave(8, 0.9);
    let value = |x: &[f32], w: &[f32], b: &[f32]| -> f64 {
        let y = Tape::forward_only()
            .apply(Linear, [&tensor(x, &[2, 3]), &tensor(w, &[4, 3]), &tensor(b, &[4])])
            .unwrap();
        numbers(&y).iter().zip(&weights).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum()
    };
    let (xt, wt, bt) = (tensor(&x, &[2, 3]), tensor(&w, &[4, 3]), tensor(&b, &[4]));
    let mut tape = Tape::recording();
    let y = tape.apply(Linear, [&xt, &wt, &bt]).unwrap();
    let gradients = tape.backward(&y, tensor(&weights, &[2, 4])).unwrap();
    let check = |leaf: &Tensor, numeric: Vec<f32>, what: &str| {
        assert_close(gradients.get(leaf).unwrap(), &tensor(&numeric, leaf.dims()), 1e-3, what);
    };
    check(&xt, numeric_gradient(&x, |x| value(x, &w, &b)), "input");
    check(&wt, numeric_gradient(&w, |w| value(&x, w, &b)), "weight");
    check(&bt, numeric_gradient(&b, |b| value(&x, &w, b)), "bias");
}

#[test]
fn cosine_loss_is_zero_for_equal_vectors_and_four_for_opposite_ones() {
    // Two matched boxes; views' halves crossed: z₂ = q₁ and z₁ = −q₂.
    let q = tensor(&[1.0, 2.0, -3.0, 0.5, 2.0, 0.0, 0.0, 3.0], &[4, 2]);
    let z = tensor(&[-2.0, 0.0, 0.0, -9.0, 0.1, 0.2, -6.0, 1.0], &[4, 2]);
    let loss = CosineLoss::new(2).forward([&q, &z]).unwrap();
    let loss = loss.to_scalar::<f32>().unwrap();
    assert!((loss - 4.0).abs() < 1e-6, "{loss}");
}

#[test]
fn cosine_loss_gradient_by_differences() {
    let (q, z) = (wave(24, 0.0), wave(24, 5.0));
    let shape = [6, 4];
    let loss = |q: &[f32]| -> f64 {
        let loss = CosineLoss::new(3).forward([&tensor(q, &shape), &tensor(&z, &shape)]);
        loss.unwrap().to_scalar::<f32>().unwrap().into()
    };
    let (qt, zt) = (tensor(&q, &shape), tensor(&z, &shape));
    let mut tape = Tape::recording();
    let y = tape.apply(CosineLoss::new(3), [&qt, &zt]).unwrap();
    let gradients = tape.backward(&y, Tensor::new(1.0f32, &Device::Cpu).unwrap()).unwrap();
    assert!(gradients.get(&zt).is_none());
    assert_close(
        gradients.get(&qt).unwrap(),
        &tensor(&numeric_gradient(&q, loss), &shape),
        1e-3,
        "q",
    );
}

#[test]
fn global_average_pool() {
    let x = tensor(&[1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 6.0, 60.0], &[1, 2, 2, 2]);
    let mut tape = Tape::recording();
    let y = tape.apply(GlobalAveragePool, [&x]).unwrap();
    assert_eq!(numbers(&y), [3.0, 30.0]);
    let gradients = tape.backward(&y, tensor(&[4.0, 8.0], &[1, 2])).unwrap();
    assert_eq!(numbers(gradients.get(&x).unwrap()), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn pixels_are_normalized() {
    let pixels =
        Tensor::from_vec(vec![0u8, 128, 255, 255, 0, 7], (1, 1, 2, 3), &Device::Cpu).unwrap();
    let found = numbers(&normalize_pixels(&pixels, DType::F32).unwrap());
    for (index, value) in [0.0f32, 128.0, 255.0, 255.0, 0.0, 7.0].into_iter().enumerate() {
        let expected = (value / 255.0 - IMAGENET_MEAN[index % 3]) / IMAGENET_STD[index % 3];
        assert!((found[index] - expected).abs() < 1e-6);
    }
}

#[test]
fn cross_entropy() {
    let logits = [[1.0f32, 2.0, 3.0], [0.0, 0.0, 0.0], [500.0, -500.0, 0.0], [7.0, 7.0, 7.0]];
    let logits = Tensor::new(&logits, &Device::Cpu).unwrap();
    let classes = Tensor::new(&[2i64, 1, UNKNOWN_CLASS, 0], &Device::Cpu).unwrap();
    let mut tape = Tape::recording();
    let loss = tape.apply(CrossEntropy::new(3), [&logits, &classes]).unwrap();
    // −log of e³/(e + e² + e³), of a third, and of a third.
    let expected = (0.407_606 + 2.0 * 3.0f32.ln()) / 3.0;
    assert!((loss.to_scalar::<f32>().unwrap() - expected).abs() < 1e-6);
    let one = Tensor::ones((), DType::F32, &Device::Cpu).unwrap();
    let gradients = tape.backward(&loss, one).unwrap();
    let third = 1.0 / 3.0;
    let expected = [
        [0.090_030_57, 0.244_728_47, 0.665_240_96 - 1.0],
        [third, third - 1.0, third],
        [0.0; 3],
        [third - 1.0, third, third],
    ];
    let expected = (Tensor::new(&expected, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
        / 3.0)
        .unwrap();
    assert_close(gradients.get(&logits).unwrap(), &expected, TIGHT, "gradient");
    // The first of equal logits is the answer.
    let right = count_correct(&logits, &classes).unwrap();
    assert_eq!(right.to_scalar::<f32>().unwrap(), 2.0);
}

#[test]
fn cross_entropy_of_extreme_logits_is_finite_and_of_no_class_an_error() {
    let logits = Tensor::new(&[[500.0f32, -500.0, 0.0]], &Device::Cpu).unwrap();
    let with = |class: i64| {
        let class = Tensor::new(&[class], &Device::Cpu).unwrap();
        CrossEntropy::new(1).forward([&logits, &class])
    };
    assert_eq!(with(1).unwrap().to_scalar::<f32>().unwrap(), 1000.0);
    assert!(with(3).unwrap_err().to_string().contains("class 3 of 3"));
    assert!(with(-2).unwrap_err().to_string().contains("class -2 of 3"));
}

#[test]
fn embedding_std_is_zero_for_one_direction_and_healthy_for_all() {
    let std = |embeddings: Tensor| embedding_std(&embeddings).unwrap().to_scalar::<f32>().unwrap();
    let alike = Tensor::new(&[[3.0f32, 4.0], [0.3, 0.4], [30.0, 40.0]], &Device::Cpu).unwrap();
    assert!(std(alike) < 1e-7);
    let axes =
        Tensor::new(&[[2.0f32, 0.0], [-1.0, 0.0], [0.0, 5.0], [0.0, -0.1]], &Device::Cpu).unwrap();
    assert!((std(axes) - 0.5f32.sqrt()).abs() < 1e-6);
    let random = Tensor::randn(0.0f32, 1.0, (2000, 64), &Device::Cpu).unwrap();
    assert!((std(random) * 8.0 - 1.0).abs() < 0.01);
}
