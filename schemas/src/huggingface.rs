//! The `huggingface` metadata of a shard: with it `datasets.load_dataset("parquet", …)`
//! decodes the views as images.
//!
//! `datasets` compares the order of fields as well, so the JSON is built here in the order of the
//! columns; `serde_json` would sort the names.

/// The metadata key under which `datasets` finds a description of the columns.
pub(crate) const KEY: &str = "huggingface";

fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn text(value: &str) -> String {
    format!("\"{value}\"")
}

fn value(dtype: &str) -> String {
    object(&[("dtype", text(dtype)), ("_type", text("Value"))])
}

fn values(names: &[&str], dtype: &str) -> String {
    object(&names.iter().map(|name| (*name, value(dtype))).collect::<Vec<_>>())
}

fn view() -> String {
    object(&[
        ("image", object(&[("_type", text("Image"))])),
        ("crop", values(&["x", "y", "width", "height"], "int32")),
        ("flip", value("bool")),
        ("vertical_flip", value("bool")),
        ("turns", value("int8")),
        (
            "jitter",
            object(&[
                ("brightness", value("float32")),
                ("contrast", value("float32")),
                ("saturation", value("float32")),
                ("hue", value("float32")),
                ("order", value("string")),
            ]),
        ),
        ("grayscale", value("bool")),
        ("blur", value("float32")),
        ("solarize", value("bool")),
    ])
}

/// The JSON text for [`KEY`].
pub(crate) fn features() -> String {
    let corners = object(&[
        ("feature", value("float32")),
        ("length", "4".to_owned()),
        ("_type", text("Sequence")),
    ]);
    let matched =
        object(&[("source", corners.clone()), ("view1", corners.clone()), ("view2", corners)]);
    let features = object(&[
        ("image_id", value("int64")),
        ("path", value("string")),
        ("label", value("int32")),
        ("source_width", value("int32")),
        ("source_height", value("int32")),
        ("view1", view()),
        ("view2", view()),
        ("boxes", format!("[{matched}]")),
    ]);
    object(&[("info", object(&[("features", features)]))])
}
