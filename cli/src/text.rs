//! Encodings of text files that other systems write.

/// What Windows begins a text in UTF-8 with.
pub const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// What a text in UTF-16 begins with.
const UTF_16_MARKS: [&[u8]; 2] = [b"\xFF\xFE", b"\xFE\xFF"];

/// A text without its byte order mark.
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// Whether a text begins as one in UTF-16.
pub fn is_utf_16(text: &[u8]) -> bool {
    UTF_16_MARKS.iter().any(|mark| text.starts_with(mark))
}
