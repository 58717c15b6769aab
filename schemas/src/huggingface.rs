//! The `huggingface` metadata of a shard: with it `datasets.load_dataset("parquet", …)` decodes the views as pictures.

use serde_json::{Value, json};

/// Where `datasets` looks for a description of the columns.
pub(crate) const KEY: &str = "huggingface";

fn value(dtype: &str) -> Value {
    json!({ "dtype": dtype, "_type": "Value" })
}

fn view() -> Value {
    json!({
        "image": { "_type": "Image" },
        "crop": { "x": value("int32"), "y": value("int32"), "width": value("int32"), "height": value("int32") },
        "flip": value("bool"),
        "jitter": {
            "brightness": value("float32"), "contrast": value("float32"), "saturation": value("float32"),
            "hue": value("float32"), "order": value("string"),
        },
        "grayscale": value("bool"),
        "blur": value("float32"),
        "solarize": value("bool"),
    })
}

/// The JSON text that stands under [`KEY`].
pub(crate) fn features() -> String {
    let corners = json!({ "feature": value("float32"), "length": 4, "_type": "Sequence" });
    json!({ "info": { "features": {
        "image_id": value("int64"),
        "path": value("string"),
        "label": value("int32"),
        "source_width": value("int32"),
        "source_height": value("int32"),
        "view1": view(),
        "view2": view(),
        "boxes": [{ "source": corners, "view1": corners, "view2": corners }],
    } } })
    .to_string()
}
