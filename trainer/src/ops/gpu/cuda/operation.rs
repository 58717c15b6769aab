//! One pass of a convolution as an operation of cuDNN's.

use candle_core::{DType, Result, bail};
use cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t::*;
use sys::cudnnBackendDescriptorType_t::*;
use sys::{cudnnConvolutionMode_t, cudnnDataType_t};

use super::descriptor::{Descriptor, Value};
use crate::ops::geometry::{Geometry, Pass};

/// What the addresses of all tensors are multiples of. Engines count on it to load several elements
/// at a time.
pub(super) const ALIGNMENT: u64 = 16;

/// The unique ids by which a plan knows its input, its filter, and its output.
pub(super) const X: i64 = 1;
pub(super) const W: i64 = 2;
pub(super) const Y: i64 = 3;

/// The order in which all three tensors lie in memory. A filter counts as a batch of maps, one for
/// each output channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Order {
    /// The channels of a pixel lie side by side.
    Nhwc,
    /// The pixels of a channel lie side by side.
    Nchw,
}

/// What an operation computes: a pass of a convolution, the type and the order of its tensors.
pub(super) type Work = (Geometry, Pass, DType, Order);

/// A tensor whose sizes are given as [N, C, H, W], or [O, I, kh, kw], whatever its order in memory.
fn tensor(id: i64, sizes: [usize; 4], dtype: DType, order: Order) -> Result<Descriptor> {
    let data_type = match dtype {
        DType::BF16 => cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        DType::F32 => cudnnDataType_t::CUDNN_DATA_FLOAT,
        dtype => bail!("convolutions are of float32 or bfloat16, not {dtype:?}"),
    };
    let sizes = sizes.map(|size| size as i64);
    let [_, c, h, w] = sizes;
    let strides = match order {
        Order::Nhwc => [h * w * c, 1, w * c, c],
        Order::Nchw => [c * h * w, h * w, w, 1],
    };
    Descriptor::finalized(
        CUDNN_BACKEND_TENSOR_DESCRIPTOR,
        &[
            (CUDNN_ATTR_TENSOR_DATA_TYPE, Value::DataType(data_type)),
            (CUDNN_ATTR_TENSOR_DIMENSIONS, Value::Integers(&sizes)),
            (CUDNN_ATTR_TENSOR_STRIDES, Value::Integers(&strides)),
            (CUDNN_ATTR_TENSOR_UNIQUE_ID, Value::Integers(&[id])),
            (CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, Value::Integers(&[ALIGNMENT as i64])),
        ],
    )
}

/// One pass of a convolution, and the descriptors that it refers to.
pub(super) struct Operation {
    pub descriptor: Descriptor,
    _parts: [Descriptor; 4],
}

impl Operation {
    pub fn new((g, pass, dtype, order): Work) -> Result<Self> {
        let Geometry { n, h, w, i, o, kh, kw, out_h, out_w, stride, padding } = g;
        let x = tensor(X, [n, i, h, w], dtype, order)?;
        let w = tensor(W, [o, i, kh, kw], dtype, order)?;
        let y = tensor(Y, [n, o, out_h, out_w], dtype, order)?;
        let mode = cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let compute = cudnnDataType_t::CUDNN_DATA_FLOAT;
        let (stride, padding) = ([stride as i64; 2], [padding as i64; 2]);
        let convolution = Descriptor::finalized(
            CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR,
            &[
                (CUDNN_ATTR_CONVOLUTION_COMP_TYPE, Value::DataType(compute)),
                (CUDNN_ATTR_CONVOLUTION_CONV_MODE, Value::ConvolutionMode(mode)),
                (CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, Value::Integers(&[2])),
                (CUDNN_ATTR_CONVOLUTION_DILATIONS, Value::Integers(&[1, 1])),
                (CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, Value::Integers(&stride)),
                (CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, Value::Integers(&padding)),
                (CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, Value::Integers(&padding)),
            ],
        )?;
        let (kind, names) = match pass {
            Pass::Forward => (
                CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                [
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                ],
            ),
            Pass::Data => (
                CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                [
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                ],
            ),
            Pass::Filter => (
                CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                [
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
                ],
            ),
        };
        // The result is 1 times the convolution plus 0 times what was there.
        let values = [
            Value::Descriptor(&x),
            Value::Descriptor(&w),
            Value::Descriptor(&y),
            Value::Descriptor(&convolution),
            Value::Float(1.0),
            Value::Float(0.0),
        ];
        let attributes = names.into_iter().zip(values).collect::<Vec<_>>();
        let descriptor = Descriptor::finalized(kind, &attributes)?;
        Ok(Self { descriptor, _parts: [x, w, y, convolution] })
    }
}
