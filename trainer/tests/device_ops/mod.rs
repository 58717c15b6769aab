//! Every piece of work that a device can do against the CPU path's ops, at odd sizes, for any [`Backend`].

// Each test program includes this file and uses a part of it.
#![allow(dead_code)]

use candle_core::{CustomOp2, DType, Device, Tensor};
use scrl_preprocess::rng::{Purpose, Stream};
use scrl_trainer::cuda::{
    Backend, ConvolutionShape, Convolve, MapShape, Mask, Multiply, NormPlaces, Numbers, Operand, Pass,
    Places, ProductShape, Recorder, Rows, Work,
};
use scrl_trainer::ops::{
    BatchNorm, BatchStatistics, Conv2d, CosineLoss, CountRight, CrossEntropy, GlobalAveragePool, MaxPool,
    NormalizePixels, RoiAlign, Tape,
};

/// A device, the numbers of its maps, and what may differ relatively.
struct Bench<B> {
    backend: B,
    numbers: Numbers,
    random: Stream,
}

/// What a piece of work is given, or gives.
#[derive(Clone)]
enum Data {
    Numbers(Vec<f32>, Numbers),
    Bytes(Vec<u8>),
}

impl Data {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Numbers(values, Numbers::F32) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::Numbers(values, Numbers::Bf16) => {
                values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect()
            }
        }
    }
}

/// A whole number as the bytes of an `int`, and as bytes of a float.
fn words(words: &[[u8; 4]]) -> Data {
    Data::Bytes(words.concat())
}

fn int(value: i32) -> [u8; 4] {
    value.to_le_bytes()
}

fn float(value: f32) -> [u8; 4] {
    value.to_le_bytes()
}

impl<B: Backend> Bench<B> {
    /// Numbers in ±1 that the maps can hold exactly.
    fn numbers(&mut self, count: usize) -> Vec<f32> {
        let keep = if self.numbers == Numbers::Bf16 { 0xffff_0000 } else { u32::MAX };
        let mut number = || self.random.uniform(-1.0, 1.0) as f32;
        (0..count).map(|_| f32::from_bits(number().to_bits() & keep)).collect()
    }

    fn map(&self, values: &[f32]) -> Data {
        Data::Numbers(values.to_vec(), self.numbers)
    }

    /// Runs what `write` records over the given data and returns results of so many numbers.
    fn run<const G: usize, const R: usize>(
        &mut self,
        given: [Data; G],
        results: [(usize, Numbers); R],
        write: impl FnOnce(&mut Recorder, [Operand; G], [Operand; R]),
    ) -> [Vec<f32>; R] {
        let mut bytes = 0;
        let mut take = |count: usize| {
            let begin = bytes;
            bytes += (count + 32).next_multiple_of(256);
            Operand::Kept(begin)
        };
        let contents = given.map(|data| data.bytes());
        let inputs = contents.each_ref().map(|content| take(content.len()));
        let outputs = results.map(|(count, numbers)| take(count * numbers.bytes()));
        let mut recorder = Recorder::new("test");
        write(&mut recorder, inputs, outputs);
        let program = recorder.finish();
        let kept = self.backend.allocate(bytes).unwrap();
        let buffers = self.backend.allocate(program.bytes).unwrap();
        let places = Places { kept, buffers, staged: [0; 2] };
        self.backend.prepare(&program).unwrap();
        for (content, place) in contents.iter().zip(inputs) {
            self.backend.upload(content, places.address(&program, place)).unwrap();
        }
        self.backend.run(&program, &places).unwrap();
        let mut index = 0;
        results.map(|(count, numbers)| {
            let mut bytes = vec![0; count * numbers.bytes()];
            self.backend.download(places.address(&program, outputs[index]), &mut bytes).unwrap();
            index += 1;
            match numbers {
                Numbers::F32 => {
                    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
                }
                Numbers::Bf16 => {
                    let wide = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
                    bytes.as_chunks::<2>().0.iter().map(wide).collect()
                }
            }
        })
    }

    #[track_caller]
    fn close(&self, found: &[f32], expected: &[f32], what: &str) {
        let tolerance = if self.numbers == Numbers::Bf16 { 1e-2 } else { 2e-5 };
        assert_eq!(found.len(), expected.len(), "{what}");
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let difference = square(&mut found.iter().zip(expected).map(|(f, e)| f64::from(*f) - f64::from(*e)));
        let length = square(&mut expected.iter().map(|e| f64::from(*e)));
        // Written so that NaN fails.
        let near = difference <= tolerance * length.max(1e-6);
        assert!(near, "{what}: differs by {difference:.2e} of {length:.2e}");
    }
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Checks everything on a device whose maps are of `numbers`.
pub fn check<B: Backend>(backend: B, numbers: Numbers) {
    let mut bench = Bench { backend, numbers, random: Stream::new(5, 0, 0, Purpose::View1) };
    pixels(&mut bench);
    for (side, inputs, outputs, kernel, stride) in
        [(9, 8, 16, 3, 1), (7, 16, 8, 3, 2), (8, 8, 24, 1, 2), (1, 8, 8, 3, 1), (17, 4, 64, 7, 2)]
    {
        convolution(&mut bench, ConvolutionShape { n: 2, side, inputs, outputs, kernel, stride, numbers });
    }
    products(&mut bench);
    for (rows, valid, channels) in [(37, 37, 24), (1, 1, 8), (200, 77, 64), (3000, 3000, 8), (10, 0, 264)] {
        batch_norm(&mut bench, rows, valid, channels);
    }
    for side in [1, 2, 7, 8] {
        max_pool(&mut bench, side);
    }
    regions(&mut bench);
    for rows in [0, 2, 10] {
        loss(&mut bench, rows);
    }
    classifier(&mut bench);
}

fn pixels<B: Backend>(bench: &mut Bench<B>) {
    for count in [1, 6, 49] {
        let bytes: Vec<u8> = (0..3 * count).map(|_| bench.random.next_u32() as u8).collect();
        let given = [Data::Bytes(bytes.clone())];
        let [found] = bench.run(given, [(4 * count, bench.numbers)], |recorder, [from], [to]| {
            recorder.normalize_pixels(from, to, count);
        });
        let pixels = Tensor::from_vec(bytes, (1, 1, count, 3), &Device::Cpu).unwrap();
        let expected = values(&pixels.apply_op1_no_bwd(&NormalizePixels).unwrap());
        let expected: Vec<f32> = expected.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 0.0]).collect();
        bench.close(&found, &expected, "pixels");
    }
}

fn convolution<B: Backend>(bench: &mut Bench<B>, shape: ConvolutionShape) {
    let ConvolutionShape { n, side, inputs, outputs, kernel, stride, numbers } = shape;
    let dims = [
        vec![n, side, side, inputs],
        vec![outputs, kernel, kernel, inputs],
        vec![n, shape.out_side(), shape.out_side(), outputs],
    ];
    let all = dims.clone().map(|dims| bench.numbers(dims.iter().product()));
    let mut tape = Tape::recording();
    let [x, w, dy] = [0, 1, 2].map(|index| tensor(&all[index], &dims[index]));
    let conv = Conv2d { stride, padding: shape.padding(), input_gradient: true };
    let y = tape.two(conv, &x, &w).unwrap();
    let gradients = tape.backward(&y, dy).unwrap();
    let [input, filter, output] = all.each_ref().map(|values| bench.map(values));
    let expected = [
        (Pass::Forward, [input.clone(), filter.clone()], values(&y)),
        (Pass::Data, [filter, output.clone()], values(gradients.get(&x).unwrap())),
        (Pass::Filter, [input, output], values(gradients.get(&w).unwrap())),
    ];
    for (pass, given, expected) in expected {
        for accumulate in [false, true] {
            let result = [(expected.len(), numbers)];
            let [found] = bench.run(given.clone(), result, |recorder, [a, b], [result]| {
                let [input, filter, output] = match pass {
                    Pass::Forward => [a, b, result],
                    Pass::Data => [result, a, b],
                    Pass::Filter => [a, result, b],
                };
                let work = Convolve { pass, shape, input, filter, output, accumulate: false };
                recorder.add(Work::Convolve(work));
                if accumulate {
                    recorder.add(Work::Convolve(Convolve { accumulate, ..work }));
                }
            });
            let times = if accumulate { 2.0 } else { 1.0 };
            let expected: Vec<f32> = expected.iter().map(|value| times * value).collect();
            bench.close(&found, &expected, &format!("{pass:?} of {shape:?}"));
        }
    }
}

fn products<B: Backend>(bench: &mut Bench<B>) {
    let (rows, columns, inner) = (24, 40, 16);
    let (left, right) = (bench.numbers(rows * inner), bench.numbers(inner * columns));
    let product = tensor(&left, &[rows, inner]).matmul(&tensor(&right, &[inner, columns])).unwrap();
    let transposed = |values: &[f32], shape: [usize; 2]| {
        self::values(&tensor(values, &shape).t().unwrap().contiguous().unwrap())
    };
    for (left_transposed, right_transposed) in [(false, true), (false, false), (true, false)] {
        for result in [bench.numbers, Numbers::F32] {
            let given = [
                if left_transposed { transposed(&left, [rows, inner]) } else { left.clone() },
                if right_transposed { transposed(&right, [inner, columns]) } else { right.clone() },
            ];
            let given = given.map(|values| bench.map(&values));
            let factors = bench.numbers;
            let [found] = bench.run(given, [(rows * columns, result)], |recorder, [left, right], [to]| {
                for accumulate in [false, true] {
                    let shape = ProductShape {
                        rows,
                        columns,
                        inner,
                        left_transposed,
                        right_transposed,
                        factors,
                        result,
                        accumulate,
                    };
                    recorder.add(Work::Multiply(Multiply { shape, left, right, result: to }));
                }
            });
            bench.close(&found, &values(&(&product * 2.0).unwrap()), "a product");
        }
    }
}

/// A batch norm with and without a residual, and its gradients, over rows of which the first `valid` count.
fn batch_norm<B: Backend>(bench: &mut Bench<B>, rows: usize, valid: usize, channels: usize) {
    let what = format!("batch norm of {valid} of {rows} rows of {channels}");
    let numbers = bench.numbers;
    let [x, residual, dy] = [(); 3].map(|()| bench.numbers(rows * channels));
    let affine: Vec<f32> = bench.numbers(2 * channels);
    let given = [
        bench.map(&x),
        bench.map(&residual),
        bench.map(&dy),
        Data::Numbers(affine.clone(), Numbers::F32),
        Data::Numbers([vec![0.0; channels], vec![1.0; channels]].concat(), Numbers::F32),
        words(&[int(valid as i32)]),
    ];
    let map = (rows * channels, numbers);
    let sums = (2 * channels, Numbers::F32);
    let found = bench.run(given, [map, map, map, map, sums], |recorder, given, results| {
        let [x, residual, dy, affine, running, valid] = given;
        let [plain, added, dx, masked, affine_gradient] = results;
        let shape = Rows { rows, valid, channels, numbers };
        let norm = NormPlaces { affine, running, bias: Operand::Null };
        let scale = recorder.batch_statistics(x, shape, norm);
        let none = (Operand::Null, Operand::Null);
        recorder.batch_norm((x, scale), none, plain, shape, true);
        recorder.batch_norm((x, scale), (residual, Operand::Null), added, shape, true);
        let gradient = (affine_gradient, false);
        let mask = Mask::Result(added);
        recorder.batch_norm_sums((x, scale), dy, mask, masked, shape, gradient);
        let coefficients =
            recorder.batch_norm_sums((x, scale), dy, Mask::Own, Operand::Null, shape, gradient);
        recorder.batch_norm_backward((x, scale), (dy, Mask::Own), coefficients, dx, shape);
    });
    assert!(found.iter().flatten().all(|value| value.is_finite()), "{what}");
    if valid == 0 {
        assert!(found[0].iter().chain(&found[2]).all(|value| *value == 0.0), "{what}");
        return;
    }
    let counted = |values: &[f32]| tensor(&values[..valid * channels], &[valid, channels]);
    let mut padded = [&found[0], &found[1], &found[2]].into_iter();
    assert!(padded.all(|map| map[valid * channels..].iter().all(|value| *value == 0.0)), "{what}");
    let (x, affine) = (counted(&x), tensor(&affine, &[2, channels]));
    let statistics = x.apply_op1_no_bwd(&BatchStatistics).unwrap();
    let op = BatchNorm { statistics, relu: true };
    let mut tape = Tape::recording();
    let plain = tape.two(op.clone(), &x, &affine).unwrap();
    let gradients = tape.backward(&plain, counted(&dy)).unwrap();
    bench.close(&found[0][..valid * channels], &values(&plain), &what);
    let added = Tape::forward_only().three(op, &x, &affine, &counted(&residual)).unwrap();
    bench.close(&found[1][..valid * channels], &values(&added), &what);
    if valid > 2 {
        bench.close(&found[2][..valid * channels], &values(gradients.get(&x).unwrap()), &what);
        bench.close(&found[4], &values(gradients.get(&affine).unwrap()), &what);
    }
    let mask = found[1].iter().zip(&dy).map(|(result, dy)| if *result > 0.0 { *dy } else { 0.0 });
    let mask: Vec<f32> = mask.take(valid * channels).collect();
    assert_eq!(&found[3][..valid * channels], &mask[..], "{what}");
}

/// Max-pool of maps that its batch norm leaves as they are, but for ReLU.
fn max_pool<B: Backend>(bench: &mut Bench<B>, side: usize) {
    let numbers = bench.numbers;
    let shape = MapShape { n: 2, side, channels: 8 };
    let pooled = MapShape { side: side.div_ceil(2), ..shape };
    // Few different numbers, so that there are equal ones in a window.
    let x: Vec<f32> = (0..shape.count()).map(|_| (bench.random.next_u32() % 5) as f32 - 1.0).collect();
    let dy = bench.numbers(pooled.count());
    let scale = [[0.0; 8], [1.0; 8], [1.0; 8], [0.0; 8]].concat();
    let given = [bench.map(&x), bench.map(&dy), Data::Numbers(scale, Numbers::F32)];
    let results = [(pooled.count(), numbers), (shape.count(), numbers)];
    let [y, dx] = bench.run(given, results, |recorder, [x, dy, scale], [y, dx]| {
        let winners = recorder.buffer(pooled.count());
        recorder.max_pool((x, scale), y, winners, (shape, numbers));
        recorder.max_pool_backward(dy, winners, dx, (shape, numbers));
    });
    let positive: Vec<f32> = x.iter().map(|value| value.max(0.0)).collect();
    let x = tensor(&positive, &[2, side, side, 8]);
    let mut tape = Tape::recording();
    let expected = tape.one(MaxPool { kernel: 3, stride: 2, padding: 1 }, &x).unwrap();
    let dy = tensor(&dy, expected.dims());
    let gradients = tape.backward(&expected, dy).unwrap();
    bench.close(&y, &values(&expected), "max-pool");
    bench.close(&dx, &values(gradients.get(&x).unwrap()), "max-pool's gradient");
}

fn regions<B: Backend>(bench: &mut Bench<B>) {
    let numbers = bench.numbers;
    let shape = MapShape { n: 3, side: 7, channels: 16 };
    let map = bench.numbers(shape.count());
    let boxes: [&[[f32; 5]]; 3] = [
        &[],
        &[[1.0, 30.5, 40.0, 150.0, 100.25]],
        &[
            [0.0, 0.0, 0.0, 224.0, 224.0],
            [0.0, 200.0, 10.0, 224.0, 20.0],
            [2.0, 3.0, 190.0, 90.0, 224.0],
            [2.0, 64.0, 64.0, 65.0, 65.0],
        ],
    ];
    let most = 5;
    for rois in boxes {
        let first: Vec<[u8; 4]> = (0..=shape.n)
            .map(|view| int(rois.iter().filter(|roi| (roi[0] as usize) < view).count() as i32))
            .collect();
        let mut gradient = bench.numbers(most * shape.channels);
        gradient[rois.len() * shape.channels..].fill(0.0);
        let mut all = rois.concat();
        all.resize(5 * most, 0.0);
        let given = [
            bench.map(&map),
            bench.map(&gradient),
            Data::Numbers(all, Numbers::F32),
            words(&first),
            words(&[int(rois.len() as i32)]),
        ];
        let results = [(most * shape.channels, numbers), (shape.count(), numbers)];
        let [vectors, dmap] = bench.run(given, results, |recorder, given, [vectors, dmap]| {
            let [map, gradient, rois, first, valid] = given;
            recorder.roi_align(map, (rois, most, valid), vectors, shape);
            recorder.roi_align_backward(gradient, (rois, first), dmap, shape);
        });
        let counted = rois.len() * shape.channels;
        assert!(vectors[counted..].iter().all(|value| *value == 0.0));
        if rois.is_empty() {
            assert!(dmap.iter().all(|value| *value == 0.0));
            continue;
        }
        let map = tensor(&map, &[shape.n, 7, 7, shape.channels]);
        let rois = tensor(&rois.concat(), &[rois.len(), 5]);
        let mut tape = Tape::recording();
        let expected = tape.two(RoiAlign, &map, &rois).unwrap();
        let gradient = tensor(&gradient[..counted], expected.dims());
        let gradients = tape.backward(&expected, gradient).unwrap();
        bench.close(&vectors[..counted], &values(&expected), "RoIAlign");
        bench.close(&dmap, &values(gradients.get(&map).unwrap()), "RoIAlign's gradient");
    }
    let gradient = bench.numbers(shape.n * shape.channels);
    let given = [bench.map(&map), bench.map(&gradient)];
    let means = shape.n * shape.channels;
    let results = [(means, numbers), (means, Numbers::F32), (shape.count(), numbers)];
    let [found, features, dmap] = bench.run(given, results, |recorder, [map, gradient], results| {
        let [means, features, dmap] = results;
        recorder.average_pool(map, means, (shape, numbers));
        recorder.average_features(map, features, (shape, numbers));
        recorder.average_pool_backward(gradient, dmap, (shape, numbers));
    });
    let map = tensor(&map, &[shape.n, 7, 7, shape.channels]);
    let mut tape = Tape::recording();
    let expected = tape.one(GlobalAveragePool, &map).unwrap();
    let gradients = tape.backward(&expected, tensor(&gradient, expected.dims())).unwrap();
    bench.close(&found, &values(&expected), "means");
    bench.close(&features, &values(&expected), "features");
    bench.close(&dmap, &values(gradients.get(&map).unwrap()), "means' gradient");
}

/// The loss of `rows` of ten vectors.
fn loss<B: Backend>(bench: &mut Bench<B>, rows: usize) {
    let (most, width, numbers) = (10, 24, bench.numbers);
    let (q, z) = (bench.numbers(most * width), bench.numbers(most * width));
    let matches = (rows / 2).max(1);
    let batch =
        words(&[int(rows as i32), float(1.0 / matches as f32), float(0.0), float(0.0), float(0.0), int(0)]);
    let given = [bench.map(&q), bench.map(&z), batch];
    let results = [(most * width, numbers), (1, Numbers::F32)];
    let [gradient, sum] = bench.run(given, results, |recorder, [q, z, batch], [gradient, sum]| {
        recorder.cosine_loss([q, z, gradient], (batch, sum, false), (most, width));
    });
    assert!(gradient[rows * width..].iter().all(|value| *value == 0.0));
    if rows == 0 {
        assert_eq!(sum[0], 0.0);
        return;
    }
    let counted = |values: &[f32]| tensor(&values[..rows * width], &[rows, width]);
    let (q, z) = (counted(&q), counted(&z));
    let mut tape = Tape::recording();
    let expected = tape.two(CosineLoss { boxes: matches as f64 }, &q, &z).unwrap();
    let one = Tensor::ones((), DType::F32, &Device::Cpu).unwrap();
    let gradients = tape.backward(&expected, one).unwrap();
    bench.close(&sum, &values(&expected), "loss");
    bench.close(&gradient[..rows * width], &values(gradients.get(&q).unwrap()), "loss's gradient");
}

fn classifier<B: Backend>(bench: &mut Bench<B>) {
    let (rows, width) = (7, 300);
    let mut logits: Vec<f32> = (0..rows * width).map(|_| bench.random.uniform(-4.0, 4.0) as f32).collect();
    // Two largest: the first one counts.
    (logits[5], logits[290]) = (9.0, 9.0);
    (logits[width + 5], logits[width + 290]) = (9.0, 9.0);
    let classes: [i64; 7] = [5, 290, -1, 0, 299, 17, -1];
    let labelled = 5;
    let batch = words(&[int(0), float(0.0), float(1.0 / labelled as f32), float(0.0), float(0.0), int(0)]);
    let class_words = classes.map(|class| int(class as i32));
    let given = [Data::Numbers(logits.clone(), Numbers::F32), words(&class_words), batch];
    let results = [(1, Numbers::F32), (1, Numbers::F32), (width, Numbers::F32), (rows * width, Numbers::F32)];
    let [loss, right, sums, gradient] =
        bench.run(given, results, |recorder, [logits, classes, batch], results| {
            let [loss, right, sums, gradient] = results;
            recorder.cross_entropy([logits, classes, batch], ([loss, right], false), (rows, width));
            recorder.column_sums(logits, (rows, width), sums, false);
            recorder.add(Work::Copy { from: logits, to: gradient, bytes: 4 * rows * width });
        });
    let (logits, classes) = (tensor(&logits, &[rows, width]), Tensor::new(&classes, &Device::Cpu).unwrap());
    let op = CrossEntropy { labelled: f64::from(labelled) };
    let expected = logits.apply_op2_no_bwd(&classes, &op).unwrap();
    let one = Tensor::ones((), DType::F32, &Device::Cpu).unwrap();
    let (expected_gradient, _) = op.bwd(&logits, &classes, &expected, &one).unwrap();
    let expected_gradient = expected_gradient.unwrap();
    bench.close(&loss, &values(&expected), "cross-entropy");
    bench.close(&right, &values(&logits.apply_op2_no_bwd(&classes, &CountRight).unwrap()), "right answers");
    bench.close(&gradient, &values(&expected_gradient), "cross-entropy's gradient");
    bench.close(&sums, &values(&expected_gradient.sum(0).unwrap()), "column sums");
}
